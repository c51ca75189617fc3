//! CHOM: the agent.
