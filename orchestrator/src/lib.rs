//! CHOM: the orchestrator.
