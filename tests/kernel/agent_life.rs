//! The end of an agent that is asked to end.

use std::time::Duration;

use undermesh_tests::wait_until;

use crate::mesh::{LIMIT, Mesh, field, mark};

const DELAY: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(15);

#[test]
fn an_agent_that_is_told_to_end_answers_what_it_has_begun_while_new_connections_go_past_it()
-> anyhow::Result<()> {
    let Some(mut mesh) =
        Mesh::set("an_agent_that_is_told_to_end_answers_what_it_has_begun_while_new_connections_go_past_it")?
    else {
        return Ok(());
    };
    mesh.config.write(
        "slow.yaml",
        &format!(
            "apiVersion: v1
kind: Service
metadata: {{name: slow, namespace: mesh}}
spec:
  clusterIP: 10.96.9.3
  selector: {{app: web}}
  ports: [{{name: http, port: 8080}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: slow-route, namespace: mesh}}
spec:
  hosts: [slow]
  http:
    - fault: {{delay: {{fixedDelay: {}s, percentage: {{value: 100}}}}}}
      headers: {{response: {{set: {{x-mesh: slow}}}}}}
      route: [{{destination: {{host: slow}}}}]
",
            DELAY.as_secs()
        ),
    )?;
    wait_until(LIMIT, "the slow service", || {
        let routes = mesh.agent().ask(&["services"])?;
        Ok(routes.to_string().contains("slow.mesh.svc.cluster.local").then_some(()))
    })?;
    let request = Mesh::client(&["http", "http://10.96.9.3:8080/", "--host", "slow.mesh:8080"])?;
    let mut client = mesh.a.spawn("slow", &request)?;
    wait_until(SOON, "its connection", || {
        client.must_run()?;
        Ok((mesh.status("/traffic/connections")? == 1).then_some(()))
    })?;
    // Accepted is not yet read; a head that is in the socket's buffer is a request that has begun, too.
    let agent = mesh.agent.take().expect("it runs");
    let web = mesh.web.at(8080).to_string();
    std::thread::scope(|scope| {
        let ending = scope.spawn(|| agent.terminate(SOON));
        wait_until(SOON, "a new connection past the agent", || {
            let answer = mesh.get(&mesh.a, &web)?;
            assert_eq!(answer["status"], 200, "new connections never fail: {answer}");
            Ok(mark(&answer).is_none().then_some(()))
        })?;
        assert!(!ending.is_finished(), "the slow request is still being served");
        let answer = client.finish(LIMIT)?.success("client")?.events()?.remove(0);
        assert_eq!((answer["status"].as_u64(), mark(&answer)), (Some(200), Some("slow")), "{answer}");
        assert!(answer["ms"].as_f64() >= Some(DELAY.as_secs_f64() * 1000.0), "{answer}");
        assert_eq!(answer.pointer("/headers/connection").and_then(|v| v.as_str()), Some("close"), "{answer}");
        assert_eq!(field(&answer, "peer"), "10.96.9.3:8080");
        ending.join().expect("terminate does not panic")?.success("agent")?;
        anyhow::Ok(())
    })
}
