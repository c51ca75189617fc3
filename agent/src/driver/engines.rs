//! The engines of a host, by name. Knows nothing of VPSs; each call goes to the one engine that it is for, or to all of them
//! side by side.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chom_protocol::sample::Point;
use chom_protocol::vps::Engine;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Driver, DriverError};

/// One driver for each engine. Clones share them.
#[derive(Debug)]
pub struct Engines<D>(BTreeMap<Engine, Arc<D>>);

impl<D> Clone for Engines<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D: Driver> FromIterator<D> for Engines<D> {
    fn from_iter<I: IntoIterator<Item = D>>(drivers: I) -> Self {
        Self(drivers.into_iter().map(|driver| (driver.unasked().engine, Arc::new(driver))).collect())
    }
}

impl<D: Driver> Engines<D> {
    /// The driver of an engine; none when the host does not have it.
    #[must_use]
    pub fn get(&self, engine: Engine) -> Option<&Arc<D>> {
        self.0.get(&engine)
    }

    /// Whether the host has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Engine, &Arc<D>)> {
        self.0.iter().map(|(&engine, driver)| (engine, driver))
    }

    /// Measures with all engines side by side, each under its own deadline. What one cannot say is an error of that one.
    pub async fn measure(&self, deadline: Duration) -> (Vec<Point>, BTreeMap<Engine, DriverError>) {
        let mut asked = JoinSet::new();
        for (engine, driver) in self.iter() {
            let driver = Arc::clone(driver);
            asked.spawn(async move {
                let late = || DriverError::passing("it did not answer in time for this sample");
                (engine, timeout(deadline, driver.measure()).await.unwrap_or_else(|_| Err(late())))
            });
        }
        let (mut points, mut errors) = (Vec::new(), BTreeMap::new());
        for (engine, measured) in asked.join_all().await {
            match measured {
                Ok(measured) => points.extend(measured),
                Err(error) => {
                    errors.insert(engine, error);
                }
            }
        }
        (points, errors)
    }
}
