//! The wire: golden bytes, hostile bytes, and desired state in parts. One binary; its allocator counts.

#[cfg(test)]
mod wire {
    pub(crate) mod counting;
    pub(crate) mod every;
    mod golden;
    mod hostile;
    mod parts;
}
