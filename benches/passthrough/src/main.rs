//! Pingora as it comes, passing everything on to one backend: no key, no limit, no log, no metric. What it costs is what
//! the gateway would cost that was built on Pingora's own proxy and did nothing.
//!
//! It has the gateway's allocator and release profile, and as many threads, so that nothing but the gateway is between
//! the two, and what `make release` makes of it.

use clap::Parser;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;
use std::net::SocketAddr;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What it is asked to do.
#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Where everything goes.
    #[arg(long)]
    backend: SocketAddr,
}

/// The one backend.
struct Passthrough(SocketAddr);

#[async_trait::async_trait]
impl ProxyHttp for Passthrough {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _ctx: &mut ()) -> pingora::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() {
    let arguments = Arguments::parse();
    let conf = ServerConf {
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let mut service = http_proxy_service(&server.configuration, Passthrough(arguments.backend));
    service.add_tcp(&arguments.listen.to_string());
    server.add_service(service);
    server.run_forever();
}
