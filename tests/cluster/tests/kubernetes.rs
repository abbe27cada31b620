//! The harness of real Kubernetes itself: an API server to be had by one call, nodes that are ready, and nothing left behind.

use std::path::PathBuf;
#[path = "kubernetes/authors.rs"]
mod authors;

use std::time::{Duration, Instant};

use undermesh_cluster::run::output;
use undermesh_cluster::{CGROUP, ControlPlane, Image, Layout, Provider as _, Upstream, can_run_here};

#[test]
fn a_control_plane_is_up_by_one_call_answers_and_leaves_nothing() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("a_control_plane_is_up_by_one_call") else { return Ok(()) };
    let began = Instant::now();
    let mut plane = ControlPlane::start(&programs)?;
    println!("API server ready after {:.1} s", began.elapsed().as_secs_f64());
    let mut create = plane.kubectl();
    output(create.args(["create", "configmap", "there", "--from-literal=a=b"]))?;

    // The token of an account of no rights is accepted, and gets none.
    output(plane.kubectl().args(["create", "serviceaccount", "nobody"]))?;
    let token = output(plane.kubectl().args(["create", "token", "nobody"]))?;
    let nobody = plane.kubeconfig_by_token("nobody", token.trim())?;
    let get = |plane: &ControlPlane| {
        let mut command = plane.kubectl();
        command.env("KUBECONFIG", &nobody).args(["get", "configmap", "there"]);
        output(&mut command)
    };
    let refused = get(&plane).expect_err("it may not").to_string();
    assert!(refused.contains("Forbidden"), "{refused}");
    let role = ["create", "role", "reader", "--verb=get", "--resource=configmaps"];
    output(plane.kubectl().args(role))?;
    let binding = ["create", "rolebinding", "reader", "--role=reader", "--serviceaccount=default:nobody"];
    output(plane.kubectl().args(binding))?;
    get(&plane)?;

    // It can go and come back, and remembers.
    plane.stop_api_server()?;
    assert!(output(plane.kubectl().args(["get", "--raw", "/readyz"])).is_err());
    plane.start_api_server()?;
    output(plane.kubectl().args(["get", "configmap", "there"]))?;
    plane.must_run()?;
    let left = plane.end()?;
    assert!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

/// Two pods on different nodes, and one on each that looks at its node as an agent does.
const PODS: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: test}
---
apiVersion: v1
kind: Service
metadata: {name: server}
spec: {selector: {app: server}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: server}}
spec:
  serviceAccountName: test
  nodeName: n1
  terminationGracePeriodSeconds: 0
  containers:
    - name: c
      image: docker.io/undermesh/busybox:1
      imagePullPolicy: Never
      args: [sh, -c, "mkdir /tmp/w; echo hello > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"]
      readinessProbe: {httpGet: {path: /index.html, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  serviceAccountName: test
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers:
    - {name: c, image: "docker.io/undermesh/busybox:1", imagePullPolicy: Never, args: [sleep, "1000"]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: probe}
spec:
  selector: {matchLabels: {app: probe}}
  template:
    metadata: {labels: {app: probe}}
    spec:
      serviceAccountName: test
      hostPID: true
      hostNetwork: true
      terminationGracePeriodSeconds: 0
      containers:
        - name: c
          image: docker.io/undermesh/busybox:1
          imagePullPolicy: Never
          args: [sleep, "1000"]
          securityContext: {privileged: true}
          volumeMounts:
            - {name: cgroup, mountPath: /host/cgroup}
            - {name: bpf, mountPath: /sys/fs/bpf, mountPropagation: Bidirectional}
      volumes:
        - {name: cgroup, hostPath: {path: CGROUP, type: Directory}}
        - {name: bpf, hostPath: {path: /sys/fs/bpf, type: Directory}}
"#;

#[test]
fn two_nodes_run_pods_that_reach_each_other_by_name_and_leave_nothing() -> anyhow::Result<()> {
    let Some(programs) = can_run_here("two_nodes_run_pods") else { return Ok(()) };
    for layout in [Layout::Upstream, Layout::K3s] {
        let began = Instant::now();
        let mut cluster = Upstream::start(&programs, 2, layout, |what| {
            println!("[{:5.1} s] {what}", began.elapsed().as_secs_f64());
        })?;
        println!("[{:5.1} s] {} is ready", began.elapsed().as_secs_f64(), cluster.description());
        cluster.import(&busybox(&cluster)?)?;
        let file = cluster.plane().world().folder().join("pods.yaml");
        std::fs::write(&file, PODS.replace("CGROUP", CGROUP))?;
        let kubectl =
            |cluster: &mut Upstream, arguments: &[&str]| output(cluster.plane().kubectl().args(arguments));
        kubectl(&mut cluster, &["apply", "-f", &file.display().to_string()])?;
        kubectl(&mut cluster, &["wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s"])?;
        kubectl(&mut cluster, &["rollout", "status", "daemonset/probe", "--timeout=60s"])?;
        println!("[{:5.1} s] pods are ready", began.elapsed().as_secs_f64());

        let get = "for i in 1 2 3 4 5 6 7 8 9; do wget -q -O - http://server.default.svc.cluster.local/ && break; sleep 0.2; done";
        let said = kubectl(&mut cluster, &["exec", "client", "--", "sh", "-c", get])?;
        assert_eq!(said, "hello\n");
        let probes = kubectl(&mut cluster, &["get", "pods", "-l", "app=probe", "-o", "name"])?;
        assert_eq!(probes.lines().count(), 2, "{probes}");
        let mut namespaces = Vec::new();
        for probe in probes.lines() {
            // With hostPID, the first process' network is the node's own, and this pod's as it has hostNetwork.
            let look = "readlink /proc/1/ns/net; readlink /proc/self/ns/net; ls /host/cgroup; mkdir /sys/fs/bpf/x && rmdir /sys/fs/bpf/x";
            let said = kubectl(&mut cluster, &["exec", probe, "--", "sh", "-c", look])?;
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines.first(), lines.get(1), "{said}");
            assert!(lines.contains(&"kubepods"), "{said}");
            namespaces.extend(lines.first().map(ToString::to_string));
        }
        assert_ne!(namespaces.first(), namespaces.get(1), "each node has a network of its own");
        cluster.must_run()?;
        let left = Box::new(cluster).end()?;
        println!("[{:5.1} s] removed", began.elapsed().as_secs_f64());
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(began.elapsed() < Duration::from_secs(300));
    }
    Ok(())
}

/// An image of Debian's static busybox.
fn busybox(cluster: &Upstream) -> anyhow::Result<PathBuf> {
    let path = cluster.folder()?.join("busybox.tar");
    let image = Image {
        name: "docker.io/undermesh/busybox:1".into(),
        programs: vec![("bin/busybox".into(), std::fs::read("/bin/busybox")?)],
        folders: vec!["tmp".into()],
        links: ["sh", "sleep", "mkdir", "rmdir", "httpd", "wget", "readlink", "ls"]
            .map(|name| (format!("bin/{name}"), "busybox".to_owned()))
            .to_vec(),
        ..Image::default()
    };
    std::fs::write(&path, image.archive()?)?;
    Ok(path)
}
