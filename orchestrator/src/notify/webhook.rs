//! Webhooks: what happened is told by HTTP POST, signed as Standard Webhooks has it. A decision writes its events into the
//! journal in its own commit; the courier spreads them over the queues of those that hear them, posts the oldest of each
//! resource, and stores how each try went before the next one. So no kill loses an event, and a receiver that goes by
//! `webhook-id` meets each once.

pub(crate) mod courier;
pub(crate) mod event;
pub mod post;
pub mod queue;
pub mod rows;
pub(crate) mod signature;
mod upkeep;

pub use courier::Courier;
