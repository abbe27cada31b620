//! `--keep`: the mesh stays, and a port of this machine leads to its gateway, which otherwise nobody outside could reach:
//! the nodes are namespaces without a wire to the machine's own.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context as _;
use undermesh_tests::{Agent, NetNs, wait_for_interrupt};

use crate::demo::stage::Stage;

/// Taken if it is free, or any other.
const PORT: u16 = 8080;

/// Says how to use what runs and returns after Ctrl-C.
pub(crate) fn until_interrupted(stage: &Stage) -> anyhow::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let listener = listener.context("no port of this machine is free")?;
    let port = listener.local_addr()?.port();
    let (netns, gateway) = (stage.visitor.netns().clone(), stage.ingress());
    // Ends with the process.
    std::thread::Builder::new().name("forward".into()).spawn(move || forward(&listener, &netns, gateway))?;

    let program = stage.binaries.undermesh.display();
    println!("\nIt keeps running. In another terminal:\n");
    println!("  curl -H 'Host: istio.k3s.local' http://127.0.0.1:{port}/productpage");
    println!(
        "  curl -H 'Host: istio.k3s.local' -H 'end-user: jason' http://127.0.0.1:{port}/api/v1/products/0/reviews"
    );
    println!(
        "  in a browser, with `127.0.0.1 istio.k3s.local` in /etc/hosts: http://istio.k3s.local:{port}/productpage\n"
    );
    for socket in stage.agents.iter().map(Agent::socket) {
        println!("  {program} status --admin-socket {}", socket.display());
    }
    println!("  {program} status --admin-socket {}", stage.gateway_socket().display());
    if let Some(socket) = stage.agents.first().map(Agent::socket) {
        let socket = socket.display();
        println!(
            "  {program} explain http://reviews:9080/reviews/0 -H end-user:jason --pod default/productpage-v1 --admin-socket {socket}"
        );
    }
    println!("  the rules, to be changed at will: {}", stage.config.folder().display());
    println!("  logs: {}\n", stage.folder().join("logs").display());
    println!("Ctrl-C ends it and cleans up.");
    wait_for_interrupt();
    println!();
    Ok(())
}

/// Carries connections to the gateway, each by way of a pod outside the mesh, as a visitor's would come.
fn forward(listener: &TcpListener, netns: &NetNs, gateway: SocketAddr) {
    for client in listener.incoming().flatten() {
        let netns = netns.clone();
        std::thread::spawn(move || {
            let limit = Duration::from_secs(5);
            let server = netns.run(|| Ok(TcpStream::connect_timeout(&gateway, limit)?));
            // A client that cannot be served sees its connection closed; there is nobody else to tell.
            if let Ok(server) = server {
                let _ = carry(&client, &server);
            }
        });
    }
}

fn carry(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        let copied = io::copy(&mut from, &mut to);
        // The other side may have closed altogether.
        let _ = to.shutdown(Shutdown::Write);
        copied
    };
    std::thread::scope(|s| {
        let up = s.spawn(|| one_way(client, server));
        let down = one_way(server, client);
        // A panic in io::copy cannot be; its error is that of the connection.
        up.join().unwrap_or(Ok(0)).and(down).map(|_| ())
    })
}
