//! Mesh-wide settings with their defaults filled in.

use std::sync::Arc;
use std::time::Duration;

use super::visibility::Visibility;
use crate::api::destination_rule::TrafficPolicy;
use crate::api::load_balancer::{LocalityLbSetting, ZoneAwareLbSetting};
use crate::path::Normalization;
use crate::policy::PolicyOrigin;
use crate::route::RetryPolicy;

/// Istio's MeshConfig, as far as decisions need it.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) root_namespace: Arc<str>,
    /// Part of every Kubernetes service's host.
    pub(crate) cluster_domain: Arc<str>,
    pub(crate) registry_only: bool,
    pub(crate) connect_timeout: Duration,
    pub(crate) default_retries: Arc<RetryPolicy>,
    /// Fills connectionPool and outlierDetection where no rule has them.
    pub(crate) default_policy: Option<(TrafficPolicy, PolicyOrigin)>,
    pub(crate) upgrades_to_http2: bool,
    /// For services whose rule says nothing about localities.
    pub(crate) locality: LocalityLbSetting,
    /// In place of `locality`.
    pub(crate) zone_aware: Option<ZoneAwareLbSetting>,
    pub(crate) normalization: Normalization,
    /// Proxies in front of a gateway whose word about the client is believed.
    pub(crate) trusted_proxies: u32,
    pub(crate) service_export: Visibility,
    pub(crate) virtual_service_export: Visibility,
    pub(crate) destination_rule_export: Visibility,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            root_namespace: "istio-system".into(),
            cluster_domain: "cluster.local".into(),
            registry_only: false,
            connect_timeout: Duration::from_secs(10),
            default_retries: Arc::default(),
            default_policy: None,
            upgrades_to_http2: false,
            locality: LocalityLbSetting::default(),
            zone_aware: None,
            normalization: Normalization::Base,
            trusted_proxies: 0,
            service_export: Visibility::All,
            virtual_service_export: Visibility::All,
            destination_rule_export: Visibility::All,
        }
    }
}
