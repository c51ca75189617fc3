//! Real QUIC on loopback against a whole orchestrator: who gets in, what each stream does, what ends a connection.

mod admission;
mod enrolment;
mod fixture;
mod hostile;
mod restore;
mod streams;
