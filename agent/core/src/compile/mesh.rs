//! MeshConfig to settings.

use std::sync::Arc;

use super::http_route;
use crate::api::mesh_config::{MeshH2UpgradePolicy, NormalizationType};
use crate::api::sidecar::OutboundTrafficPolicyMode;
use crate::diagnostic::Diagnostic;
use crate::inputs::Inputs;
use crate::path::Normalization;
use crate::policy::PolicyOrigin;
use crate::route::RetryPolicy;
use crate::snapshot::{Mesh, Visibility};

pub(super) fn compile(inputs: &Inputs, diagnostics: &mut Vec<Diagnostic>) -> Mesh {
    let config = inputs.mesh_config();
    let default_retries = match &config.default_http_retry_policy {
        None => RetryPolicy::default(),
        Some(retries) => http_route::retry_policy(retries, &RetryPolicy::default()),
    };
    let origin = |field: &str| PolicyOrigin {
        block: "",
        from: "MeshConfig defaultTrafficPolicy".into(),
        file: inputs.mesh.as_ref().and_then(|mesh| mesh.origin.file()).map(Into::into),
        line: inputs.mesh.as_ref().and_then(|mesh| mesh.origin.line(field)),
    };
    let registry_only = config
        .outbound_traffic_policy
        .as_ref()
        .is_some_and(|policy| policy.mode == Some(OutboundTrafficPolicyMode::RegistryOnly));
    if registry_only && let Some(mesh) = &inputs.mesh {
        diagnostics.push(super::sidecar::registry_only_limit(mesh, "outboundTrafficPolicy.mode"));
    }
    Mesh {
        root_namespace: config.root_namespace().into(),
        registry_only,
        connect_timeout: config.connect_timeout(),
        default_retries: Arc::new(default_retries),
        default_policy: config
            .default_traffic_policy
            .clone()
            .map(|policy| (policy, origin("defaultTrafficPolicy"))),
        upgrades_to_http2: config.h2_upgrade_policy == MeshH2UpgradePolicy::Upgrade,
        locality: config.locality_lb_setting.clone().unwrap_or_default(),
        zone_aware: config.zone_aware_lb_setting.clone(),
        normalization: match config.path_normalization.as_ref().map(|it| it.normalization).unwrap_or_default()
        {
            NormalizationType::Default | NormalizationType::Base => Normalization::Base,
            NormalizationType::None => Normalization::None,
            NormalizationType::MergeSlashes => Normalization::MergeSlashes,
            NormalizationType::DecodeAndMergeSlashes => Normalization::DecodeAndMergeSlashes,
        },
        trusted_proxies: config.gateway_topology().map_or(0, |topology| topology.num_trusted_proxies),
        service_export: Visibility::mesh_default(&config.default_service_export_to),
        virtual_service_export: Visibility::mesh_default(&config.default_virtual_service_export_to),
        destination_rule_export: Visibility::mesh_default(&config.default_destination_rule_export_to),
        ..Mesh::default()
    }
}
