use super::*;

fn settings() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 5,
        consecutive_gateway_errors: 0,
        split_local_origin: false,
        consecutive_local_origin_failures: 5,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_percent: 100,
        min_health_percent: 0,
        error_codes: Arc::from([]),
    }
}

fn status(status: u16) -> Sign {
    Sign::Answered { status, grpc_status: None }
}

fn grpc(code: u32) -> Sign {
    Sign::Answered { status: 200, grpc_status: Some(code) }
}

/// The causes that each sign of a row sets off.
fn causes(settings: &OutlierDetection, signs: &[Sign]) -> Vec<Vec<Cause>> {
    let health = Health::default();
    signs.iter().map(|sign| health.record(settings, *sign).collect()).collect()
}

/// How many of `sign`, one after the other, it takes; `None`: a hundred do not suffice.
fn takes(settings: &OutlierDetection, sign: Sign) -> Option<(usize, Vec<Cause>)> {
    let all = causes(settings, &[sign; 100]);
    let at = all.iter().position(|causes| !causes.is_empty())?;
    Some((at + 1, all[at].clone()))
}

#[test]
fn each_sign_counts_where_envoy_counts_it() {
    use Cause::*;
    let plain = OutlierDetection { consecutive_5xx: 3, consecutive_gateway_errors: 2, ..settings() };
    let split =
        OutlierDetection { split_local_origin: true, consecutive_local_origin_failures: 4, ..plain.clone() };
    let codes = OutlierDetection {
        error_codes: Arc::from([429, 503]),
        consecutive_5xx: 3,
        consecutive_gateway_errors: 2,
        ..settings()
    };
    for (name, settings, sign, want) in [
        ("a gateway error", &plain, status(502), Some((2, GatewayErrors))),
        ("a gateway error", &plain, status(504), Some((2, GatewayErrors))),
        ("another 5xx", &plain, status(500), Some((3, Consecutive5xx))),
        ("another 5xx", &plain, status(505), Some((3, Consecutive5xx))),
        ("4xx", &plain, status(429), None),
        ("unsplit, a failure is 503", &plain, Sign::Failed, Some((2, GatewayErrors))),
        ("unsplit, a time-out is 504", &plain, Sign::TimedOut, Some((2, GatewayErrors))),
        ("split, a failure has its own row", &split, Sign::Failed, Some((4, LocalOriginFailures))),
        ("split, a time-out has its own row", &split, Sign::TimedOut, Some((4, LocalOriginFailures))),
        ("split, answers count as ever", &split, status(503), Some((2, GatewayErrors))),
        ("a gRPC status stands for 503", &plain, grpc(14), Some((2, GatewayErrors))),
        ("a gRPC status stands for 500", &plain, grpc(13), Some((3, Consecutive5xx))),
        ("a gRPC status of the caller's fault", &plain, grpc(3), None),
        ("gRPC success", &plain, grpc(0), None),
        ("a listed code counts as 500", &codes, status(429), Some((3, Consecutive5xx))),
        ("a listed 5xx counts as itself", &codes, status(503), Some((2, GatewayErrors))),
        ("an unlisted 5xx is success", &codes, status(500), None),
        ("a list does not touch failures", &codes, Sign::Failed, Some((2, GatewayErrors))),
        ("a connection", &plain, Sign::Connected, None),
        ("an opaque connection", &plain, Sign::Opened, None),
    ] {
        let want = want.map(|(count, cause)| (count, vec![cause]));
        assert_eq!(takes(settings, sign), want, "{name}: {sign:?}");
    }
}

#[test]
fn zero_switches_a_row_off() {
    let off = OutlierDetection { consecutive_5xx: 0, consecutive_gateway_errors: 0, ..settings() };
    assert_eq!(takes(&off, status(503)), None);
    let gateway = OutlierDetection { consecutive_gateway_errors: 2, ..off };
    assert_eq!(takes(&gateway, status(500)), None);
    assert_eq!(takes(&gateway, status(503)), Some((2, vec![Cause::GatewayErrors])));
}

#[test]
fn only_an_unbroken_row_counts() {
    let three = OutlierDetection { consecutive_5xx: 3, consecutive_gateway_errors: 3, ..settings() };
    let split =
        OutlierDetection { split_local_origin: true, consecutive_local_origin_failures: 3, ..three.clone() };
    let codes = OutlierDetection { error_codes: Arc::from([500]), consecutive_5xx: 3, ..settings() };
    let (bad, failed) = (status(500), Sign::Failed);
    for (name, settings, signs, ejects) in [
        ("success ends it", &three, [bad, bad, status(200), bad, bad], false),
        ("404 is success", &three, [bad, bad, status(404), bad, bad], false),
        ("an unlisted 5xx is success", &codes, [bad, bad, status(503), bad, bad], false),
        ("a connection alone says nothing", &three, [bad, bad, Sign::Connected, bad, bad], true),
        ("an opaque connection is success", &three, [failed, failed, Sign::Opened, failed, failed], false),
        ("split, a connection is success", &split, [failed, failed, Sign::Connected, failed, failed], false),
        ("split, an answer is no connection", &split, [failed, failed, bad, failed, failed], true),
    ] {
        assert_eq!(causes(settings, &signs).iter().any(|causes| !causes.is_empty()), ejects, "{name}");
    }
    // 500 ends a row of gateway errors but not the one of 5xx.
    let gateway = OutlierDetection { consecutive_5xx: 0, ..three };
    let signs = [status(503), status(503), status(500), status(503)];
    assert!(causes(&gateway, &signs).iter().all(Vec::is_empty));
}

#[test]
fn two_rows_may_be_long_enough_at_once_the_gateways_first() {
    let both = OutlierDetection { consecutive_5xx: 2, consecutive_gateway_errors: 2, ..settings() };
    assert_eq!(takes(&both, status(503)), Some((2, vec![Cause::GatewayErrors, Cause::Consecutive5xx])));
}

/// A cluster on a fake clock.
struct Cluster {
    detector: Detector,
    members: Box<[Arc<Health>]>,
    now: Instant,
}

fn address(index: usize) -> SocketAddr {
    ([10, 0, 0, index as u8], 80).into()
}

impl Cluster {
    fn new(settings: &OutlierDetection, size: usize) -> Self {
        let now = Instant::now();
        let mut detector = Detector::new(settings.clone(), now);
        let members = detector.join(settings, 1, (0..size).map(address), now);
        Self { detector, members, now }
    }

    fn fail(&mut self, index: usize) -> Verdict {
        self.detector.eject(address(index), Cause::Consecutive5xx, &self.members, self.now)
    }

    /// Sweeps every second; the second after which `index` is back.
    fn back_after(&mut self, index: usize) -> u64 {
        let started = self.now;
        while self.members[index].is_ejected() {
            self.pass(1);
        }
        (self.now - started).as_secs()
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.detector.sweep(self.now);
        }
    }

    fn out(&self) -> usize {
        self.members.iter().filter(|health| health.is_ejected()).count()
    }
}

#[test]
fn the_share_that_may_be_out_is_checked_before_with_the_new_one_in_it() {
    for (size, percent, want) in [
        (1, 10, 0),
        (1, 100, 1),
        (9, 10, 0),
        (10, 10, 1),
        (19, 10, 1),
        (20, 10, 2),
        (4, 50, 2),
        (3, 50, 1),
        (4, 100, 4),
        (3, 33, 0),
        (3, 34, 1),
    ] {
        let mut cluster =
            Cluster::new(&OutlierDetection { max_ejection_percent: percent, ..settings() }, size);
        for index in 0..size {
            cluster.fail(index);
        }
        assert_eq!(cluster.out(), want, "{percent} % of {size}");
    }
}

#[test]
fn one_that_may_not_be_ejected_has_to_fail_as_often_again() {
    let one = OutlierDetection { consecutive_5xx: 2, max_ejection_percent: 10, ..settings() };
    let mut cluster = Cluster::new(&one, 2);
    let record = |cluster: &Cluster| cluster.members[0].record(&one, status(500)).count();
    assert_eq!((record(&cluster), record(&cluster)), (0, 1));
    assert_eq!(cluster.fail(0), Verdict::TooMany);
    assert_eq!((record(&cluster), record(&cluster)), (0, 1));
}

#[test]
fn each_ejection_is_longer_by_the_base_up_to_five_minutes_and_good_intervals_make_up_for_them() {
    let mut cluster = Cluster::new(&settings(), 1);
    let mut lengths = Vec::new();
    for _ in 0..12 {
        match cluster.fail(0) {
            Verdict::Ejected { length, .. } => lengths.push(length.as_secs()),
            other => panic!("{other:?}"),
        }
        cluster.back_after(0);
    }
    assert_eq!(lengths, [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]);
    // Of eleven (one more than the cap needs, as in Envoy) three are forgiven.
    cluster.pass(30);
    assert!(matches!(cluster.fail(0), Verdict::Ejected { length, ejections: 13 } if length.as_secs() == 270));
}

#[test]
fn a_base_beyond_five_minutes_is_its_own_cap() {
    let mut cluster =
        Cluster::new(&OutlierDetection { base_ejection_time: Duration::from_secs(400), ..settings() }, 1);
    for _ in 0..3 {
        assert!(matches!(cluster.fail(0), Verdict::Ejected { length, .. } if length.as_secs() == 400));
        cluster.back_after(0);
    }
}

#[test]
fn a_sweep_of_the_interval_lets_endpoints_in_and_nothing_in_between_does() {
    let mut cluster =
        Cluster::new(&OutlierDetection { base_ejection_time: Duration::from_secs(12), ..settings() }, 2);
    cluster.pass(3);
    assert_eq!(cluster.fail(0), Verdict::Ejected { length: Duration::from_secs(12), ejections: 1 });
    assert_eq!(cluster.fail(0), Verdict::Nothing, "it is out");
    assert_eq!(cluster.detector.ejected().map(|it| it.address).collect::<Vec<_>>(), [address(0)]);
    // Due after 12 seconds, at second 15; the sweeps are at 10 and 20.
    assert_eq!(cluster.back_after(0), 17);
    assert_eq!(cluster.detector.ejected().count(), 0);
    assert!(!cluster.members[1].is_ejected());
}

#[test]
fn one_that_returns_starts_with_clean_rows() {
    let two = OutlierDetection { consecutive_5xx: 2, consecutive_gateway_errors: 3, ..settings() };
    let mut cluster = Cluster::new(&two, 1);
    let record = |cluster: &Cluster| cluster.members[0].record(&two, status(503)).next();
    record(&cluster);
    assert_eq!(record(&cluster), Some(Cause::Consecutive5xx));
    cluster.fail(0);
    cluster.back_after(0);
    assert_eq!((record(&cluster), record(&cluster)), (None, Some(Cause::Consecutive5xx)));
}

#[test]
fn a_new_generation_keeps_the_history_of_those_that_stay_and_forgets_those_that_left() {
    let mut cluster = Cluster::new(&settings(), 3);
    cluster.fail(0);
    cluster.fail(1);
    let members = cluster.detector.join(&settings(), 2, [address(0), address(2)].into_iter(), cluster.now);
    assert!(members[0].is_ejected() && !members[1].is_ejected());
    cluster.pass(10);
    assert_eq!(cluster.detector.ejected().map(|it| it.address).collect::<Vec<_>>(), [address(0)]);
    let members = cluster.detector.join(&settings(), 3, (0..3).map(address), cluster.now);
    assert!(!members[1].is_ejected(), "one that comes back is a new one");
}

#[test]
fn new_settings_apply_at_once_and_old_ones_do_not_come_back() {
    let mut cluster = Cluster::new(&settings(), 1);
    for _ in 0..4 {
        assert_eq!(cluster.members[0].record(&settings(), status(500)).count(), 0);
    }
    let quick = OutlierDetection { consecutive_5xx: 2, interval: Duration::from_secs(1), ..settings() };
    cluster.detector.join(&quick, 2, [address(0)].into_iter(), cluster.now);
    assert_eq!(cluster.members[0].record(&quick, status(500)).count(), 0);
    assert_eq!(cluster.members[0].record(&quick, status(500)).count(), 1);
    // A worker that is behind.
    cluster.detector.join(&settings(), 1, [address(0)].into_iter(), cluster.now);
    cluster.fail(0);
    assert_eq!(cluster.back_after(0), 30, "swept every second");
}

#[test]
fn history_fades() {
    let mut cluster = Cluster::new(&settings(), 1);
    assert!(!cluster.detector.has_history());
    cluster.fail(0);
    assert!(cluster.detector.has_history());
    cluster.back_after(0);
    assert!(cluster.detector.has_history(), "its next ejection would be longer");
    cluster.pass(10);
    assert!(!cluster.detector.has_history());
}

#[test]
fn endpoints_that_nobody_uses_are_forgotten_unless_they_failed() {
    let mut cluster = Cluster::new(&settings(), 1);
    // Names have other addresses every time.
    for index in 1..200 {
        let members = cluster.detector.join(&settings(), 1, [address(index)].into_iter(), cluster.now);
        if index == 7 {
            assert_eq!(members[0].record(&settings(), status(500)).count(), 0);
        }
    }
    cluster.pass(10);
    assert_eq!(cluster.detector.endpoints.keys().copied().collect::<Vec<_>>(), [address(0), address(7)]);
    cluster.members = Box::default();
    assert!(cluster.detector.has_history(), "of the one that failed");
    cluster.pass(3700);
    assert!(cluster.detector.endpoints.is_empty());
}
