//! stub
use super::{Announcement, SharedNetwork, View};
use crate::{network::Definition, request::Refusal};
use anyhow::Result;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
#[derive(Clone, Debug, PartialEq, Eq)]
/// x
pub struct EtcdConfig {
    /// x
    pub lease: Duration,
    /// x
    pub endpoints: Vec<String>,
    /// x
    pub prefix: String,
}
/// x
#[derive(Clone, Debug)]
pub struct Directory;
impl Directory {
    /// x
    pub fn open(
        _: &EtcdConfig,
        _: &str,
        _: &str,
        _: Announcement,
    ) -> Result<(Self, watch::Receiver<Arc<View>>)> {
        unimplemented!()
    }
    /// x
    pub fn announce(&self, _: Announcement) {}
    /// x
    pub async fn create_network(&self, _: &Definition) -> Result<SharedNetwork, Refusal> {
        unimplemented!()
    }
    /// x
    pub async fn remove_network(&self, _: &str) -> Result<(), Refusal> {
        unimplemented!()
    }
    /// x
    pub async fn remove_node(&self, _: &str) -> Result<(), Refusal> {
        unimplemented!()
    }
    /// x
    pub async fn leave(&self) -> Result<()> {
        unimplemented!()
    }
}
