//! CHOM's contracts: all that crosses a process boundary. Pure data and codecs; nothing here does I/O, reads a clock or spawns.

pub mod api;
pub mod audit;
pub mod foreign;
pub mod helper;
pub mod host;
pub mod id;
pub mod job;
pub mod link;
pub mod network;
pub mod sample;
pub mod units;
pub mod user_name;
pub mod vps;

pub use id::{
    AlertId, BootId, DeliveryId, EnrolmentId, HostId, InstanceId, JobId, Name, NotificationId, OperationId,
    PlanId, SnapshotId, TokenId, TunnelId, UserId, VpsId, WebhookId,
};
pub use units::{Bytes, Generation, UnixMillis};
pub use user_name::UserName;
