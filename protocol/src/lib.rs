//! CHOM: all that crosses a process boundary.
