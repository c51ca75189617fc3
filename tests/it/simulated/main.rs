//! What CHOM must withstand, shown on simulated hosts: the real programs as processes, over the real link, with guests
//! that exist only in a file. Every test prints its seed where there is chance in it, and every wait has a deadline.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]
