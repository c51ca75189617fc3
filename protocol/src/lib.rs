//! CHOM's contracts: all that crosses a process boundary. Pure data and codecs; nothing here does I/O, reads a clock or spawns.

pub mod id;
pub mod units;

pub use id::{
    AlertId, BootId, EnrolmentId, HostId, InstanceId, JobId, Name, NotificationId, OperationId, TokenId, VpsId,
};
pub use units::{Bytes, Generation, UnixMillis};
