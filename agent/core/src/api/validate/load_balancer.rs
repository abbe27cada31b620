//! Rules for picking endpoints and localities.

use super::{Checker, values};
use crate::api::load_balancer::{
    ConsistentHashLb, Distribute, Failover, LoadBalancerSettings, LocalityLbSetting, SimpleLb,
    WarmupConfiguration,
};
use crate::balance::MAX_RING;
use crate::diagnostic::Code;

/// Labels that stand for what locality load balancing looks at by itself.
const TOPOLOGY_LABELS: [&str; 3] =
    ["topology.kubernetes.io/region", "topology.kubernetes.io/zone", "topology.istio.io/subzone"];

/// Envoy's limit on a Maglev table.
const MAX_TABLE: u64 = 5_000_011;

pub(super) fn check(
    check: &mut Checker<'_>,
    settings: Option<&LoadBalancerSettings>,
    has_outlier_detection: bool,
) {
    let Some(settings) = settings else { return };
    if settings.simple.is_some() && settings.consistent_hash.is_some() {
        check.error(Code::InvalidLoadBalancer, "only one of simple and consistentHash may be set");
    }
    if let Some(hash) = &settings.consistent_hash {
        check.field("consistentHash", |check| consistent_hash(check, hash));
    }
    if settings.locality_lb_setting.is_some() && settings.zone_aware_lb_setting.is_some() {
        let message = "only one of localityLbSetting and zoneAwareLbSetting can be set";
        check.error(Code::InvalidLocality, message);
    }
    check.field("localityLbSetting", |check| {
        locality(check, settings.locality_lb_setting.as_ref(), has_outlier_detection);
    });
    if let Some(zone_aware) = &settings.zone_aware_lb_setting {
        check.field("zoneAwareLbSetting", |check| {
            check.items("failover", &zone_aware.failover, |check, entry| failover(check, entry, "zone aware lb"));
            check.items("failoverPriority", &zone_aware.failover_priority, |check, label| {
                if TOPOLOGY_LABELS.contains(&label.as_str()) {
                    let message = format!(
                        "'failover_priority' for zone aware lb must not use topology label '{label}'; region- and \
                         zone-level routing are handled automatically"
                    );
                    check.error(Code::InvalidLocality, message);
                }
            });
            warn_without_outlier_detection(
                check,
                !zone_aware.failover.is_empty() || !zone_aware.failover_priority.is_empty(),
                has_outlier_detection,
            );
        });
    }
    check.field("warmupDurationSecs", |check| values::duration(check, settings.warmup_duration_secs));
    if settings.warmup_duration_secs.is_some() {
        let message = "warmupDurationSecs is deprecated, use warmup instead";
        check.warn_at("warmupDurationSecs", Code::Deprecated, message);
    }
    if let Some(warmup) = &settings.warmup {
        check.field("warmup", |check| self::warmup(check, warmup));
    }
    let is_other = settings.consistent_hash.is_some()
        || matches!(settings.simple, Some(SimpleLb::Random | SimpleLb::Passthrough));
    if is_other && (settings.warmup.is_some() || settings.warmup_duration_secs.is_some()) {
        check.warn(Code::NoEffect, "only ROUND_ROBIN and LEAST_REQUEST know a warm-up");
    }
}

fn consistent_hash(check: &mut Checker<'_>, hash: &ConsistentHashLb) {
    let keys = [
        hash.http_header_name.is_some(),
        hash.http_cookie.is_some(),
        hash.use_source_ip.is_some(),
        hash.http_query_parameter_name.is_some(),
    ];
    if keys.iter().filter(|&&is_set| is_set).count() > 1 {
        check.error(
            Code::InvalidLoadBalancer,
            "only one of httpHeaderName, httpCookie, useSourceIp and httpQueryParameterName may be set",
        );
    }
    if let Some(cookie) = &hash.http_cookie {
        check.field("httpCookie", |check| {
            if cookie.name.is_empty() {
                check.error(Code::InvalidLoadBalancer, "name required for HttpCookie");
            }
            let mut names: Vec<&str> = Vec::new();
            for attribute in &cookie.attributes {
                let name = attribute.name.as_str();
                if name.is_empty() {
                    let message = "cookie attribute name cannot be empty";
                    check.error_at("attributes", Code::InvalidLoadBalancer, message);
                } else if names.contains(&name) {
                    let message = format!("duplicate cookie attribute name: {name}");
                    check.error_at("attributes", Code::InvalidLoadBalancer, message);
                }
                names.push(name);
            }
        });
    }
    if hash.minimum_ring_size != 0 {
        let message = "consistent hash MinimumRingSize is deprecated, use ConsistentHashLB's RingHash configuration \
                       instead";
        check.warn_at("minimumRingSize", Code::Deprecated, message);
        if hash.ring_hash.is_some() || hash.maglev.is_some() {
            let message = "only one of MinimumRingSize or Maglev/Ringhash can be specified";
            check.error(Code::InvalidLoadBalancer, message);
        }
    }
    let ring = hash.ring_hash.as_ref().map_or(0, |ring| ring.minimum_ring_size);
    for (field, size) in [("minimumRingSize", hash.minimum_ring_size), ("ringHash.minimumRingSize", ring)] {
        if size > MAX_RING {
            let message = format!("a ring has {MAX_RING} places at most: it is made with as many");
            check.warn_at(field, Code::NotEnforced, message);
        }
    }
    if hash.ring_hash.is_some() && hash.maglev.is_some() {
        check.error(Code::InvalidLoadBalancer, "only one of ringHash and maglev may be set");
    }
    if let Some(maglev) = &hash.maglev {
        check.field("maglev.tableSize", |check| {
            if maglev.table_size == 0 {
                check.error(Code::InvalidLoadBalancer, "tableSize must be set for maglev");
            } else if maglev.table_size >= MAX_TABLE {
                check.error(Code::InvalidLoadBalancer, "tableSize must be less than 5000011 for maglev");
            } else if !is_prime(maglev.table_size) {
                check.error(Code::InvalidLoadBalancer, "tableSize must be a prime number for maglev");
            }
        });
    }
}

/// Envoy's test, which takes 1 for a prime.
fn is_prime(number: u64) -> bool {
    number >= 1
        && (2..).take_while(|factor| factor * factor <= number).all(|factor| !number.is_multiple_of(factor))
}

/// Istio: `ValidateLocalityLbSetting`.
pub(super) fn locality(
    check: &mut Checker<'_>,
    setting: Option<&LocalityLbSetting>,
    has_outlier_detection: bool,
) {
    let Some(setting) = setting else { return };
    let has_distribute = !setting.distribute.is_empty();
    let has_failover = !setting.failover.is_empty();
    if has_distribute && has_failover {
        check.error(Code::InvalidLocality, "can not simultaneously specify 'distribute' and 'failover'");
    }
    let topology = setting.failover_priority.iter().find(|label| TOPOLOGY_LABELS.contains(&label.as_str()));
    if has_failover && let Some(label) = topology {
        let message = format!(
            "can not simultaneously set 'failover' and topology label '{label}' in 'failover_priority'"
        );
        check.error(Code::InvalidLocality, message);
    }
    distribute(check, &setting.distribute);
    check.items("failover", &setting.failover, |check, entry| failover(check, entry, "locality lb"));
    warn_without_outlier_detection(
        check,
        has_failover || !setting.failover_priority.is_empty(),
        has_outlier_detection,
    );
}

fn warn_without_outlier_detection(check: &mut Checker<'_>, has_failover: bool, has_outlier_detection: bool) {
    if has_failover && !has_outlier_detection {
        check.warn(Code::NoEffect, "outlier detection policy must be provided for failover");
        check.hint("add outlierDetection: {}");
    }
}

fn distribute(check: &mut Checker<'_>, list: &[Distribute]) {
    let mut from: Vec<&str> = Vec::new();
    for (index, entry) in list.iter().enumerate() {
        check.field(&format!("distribute[{index}]"), |check| {
            check.field("from", |check| locality_name(check, &entry.from));
            // A wildcard after what is within it is let in, and is for the rest.
            if let Some(other) = from.iter().find(|other| takes_all_of(other, &entry.from)) {
                let message =
                    format!("locality {} overlap with previous specified ones, such as {other}", entry.from);
                check.error_at("from", Code::InvalidLocality, message);
            }
            from.push(&entry.from);
            check.field("to", |check| {
                let mut to: Vec<&str> = Vec::new();
                for (locality, weight) in &entry.to {
                    check.key(locality, |check| {
                        locality_name(check, locality);
                        if !(1..=100).contains(weight) {
                            let message = format!("locality weight must be in range [1, 100], not {weight}");
                            check.error(Code::InvalidLocality, message);
                        }
                        if let Some(other) = to.iter().find(|other| overlap(other, locality)) {
                            let message = format!(
                                "locality {locality} overlap with previous specified ones, such as {other}"
                            );
                            check.error(Code::InvalidLocality, message);
                        }
                    });
                    to.push(locality);
                }
                let total: u64 = entry.to.values().map(|&weight| u64::from(weight)).sum();
                if total != 100 {
                    check.error(Code::InvalidLocality, format!("total locality weight {total} != 100"));
                }
            });
        });
    }
}

/// `region/zone/subzone`, where `*` stands for the rest.
fn locality_name(check: &mut Checker<'_>, locality: &str) {
    if locality.splitn(3, '/').any(str::is_empty) {
        let message = format!("locality {locality} must not contain empty region/zone/subzone info");
        check.error(Code::InvalidLocality, message);
        check.hint("write region/zone/subzone");
    } else if locality.trim_end_matches('*').contains('*') || locality.ends_with("**") {
        let message =
            format!("locality {locality} wildcard '*' number can not exceed 1 and must be in the end");
        check.error(Code::InvalidLocality, message);
    }
}

/// Whether all of `later` is in `earlier`, or the same.
fn takes_all_of(earlier: &str, later: &str) -> bool {
    overlap(earlier, later) && (!later.ends_with('*') || depth(earlier) <= depth(later))
}

/// How many parts of a place are named.
fn depth(locality: &str) -> usize {
    locality.split('/').filter(|part| *part != "*").count()
}

/// Whether some place is in both.
fn overlap(a: &str, b: &str) -> bool {
    let mut a = a.split('/');
    let mut b = b.split('/');
    loop {
        match (a.next(), b.next()) {
            (Some("*") | None, _) | (_, Some("*") | None) => return true,
            (Some(a), Some(b)) if a != b => return false,
            _ => {}
        }
    }
}

/// `words`: how Istio calls the block.
fn failover(check: &mut Checker<'_>, failover: &Failover, words: &str) {
    if failover.from == failover.to {
        let message = format!("{words} failover settings must specify different regions");
        check.error(Code::InvalidLocality, message);
    }
    for (field, region) in [("from", &failover.from), ("to", &failover.to)] {
        if region.contains('*') {
            let message = format!("{words} failover region should not contain '*' wildcard");
            check.error_at(field, Code::InvalidLocality, message);
        } else if region.contains('/') {
            let message = match words {
                "locality lb" => "locality lb failover only specify region",
                _ => {
                    "zone aware lb failover only specifies region; zone and subzone failover are handled automatically"
                }
            };
            check.error_at(field, Code::InvalidLocality, message);
        }
    }
}

fn warmup(check: &mut Checker<'_>, warmup: &WarmupConfiguration) {
    if warmup.duration.is_none() {
        check.error(Code::InvalidLoadBalancer, "duration is required");
    }
    check.field("duration", |check| values::duration(check, warmup.duration));
    if warmup.minimum_percent.is_some_and(|percent| !(0.0..=100.0).contains(&percent)) {
        let message = "minimumPercent value should be less than or equal to 100, and not negative";
        check.error_at("minimumPercent", Code::InvalidLoadBalancer, message);
    }
    if warmup.aggression.is_some_and(|aggression| aggression <= 0.0) {
        check.error_at("aggression", Code::InvalidLoadBalancer, "aggression should be greater than 0");
    }
}
