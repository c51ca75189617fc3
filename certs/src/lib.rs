//! CHOM: the fleet CA and TLS.
