//! CHOM: the tests.
