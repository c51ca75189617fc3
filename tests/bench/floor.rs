//! The floor under connecting: bare quinn handshakes with the fleet's own certificates on both sides (TLS 1.3, ring), one
//! client socket each, in two processes, and nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chom_certs::{CaBundle, Identity, SERVER_NAME, ServerCertificate};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TokioRuntime,
    TransportConfig,
};
use socket2::{Domain, Socket, Type};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::role::{Role, hear, say};
use crate::world::{World, host_folder};

/// The server's certificate, in the world's folder.
pub(crate) const CHAIN_FILE: &str = "floor-chain.pem";
pub(crate) const KEY_FILE: &str = "floor-key.pem";
/// As the orchestrator has them.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;
const INCOMING_MAX: usize = 4096;
/// No connection ends while the others are made.
const IDLE: Duration = Duration::from_secs(120);

/// Makes the server's certificate. The world must be down.
pub(crate) async fn prepare(world: &World) {
    let running = world.within().await;
    let now = chom_tests::wait::now();
    let certificate =
        running.fleet.authorities().signing().sign_server(&["127.0.0.1".to_owned()], now).unwrap();
    std::fs::write(world.folder().join(CHAIN_FILE), certificate.chain_pem()).unwrap();
    std::fs::write(world.folder().join(KEY_FILE), certificate.key_pem().reveal()).unwrap();
    running.stop().await.unwrap();
}

/// Seconds for so many handshakes, at most `window` at once.
pub(crate) fn seconds(world: &World, count: usize, window: usize) -> f64 {
    let folder = world.folder().to_str().unwrap();
    let (server, address) = Role::start("floor-server", &[folder]);
    let (mut client, _) =
        Role::start("floor-client", &[folder, &address, &count.to_string(), &window.to_string()]);
    let seconds = client.ask("go").parse().unwrap();
    client.end();
    server.end();
    seconds
}

/// The role of the server: takes connections and keeps them.
pub(crate) fn serve(words: &[String]) {
    let folder = Path::new(&words[0]);
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let certificate = ServerCertificate::from_pem(&read(CHAIN_FILE), &read(KEY_FILE)).unwrap();
    let bundle = CaBundle::from_pem(&read("state/ca.pem")).unwrap();
    let tls = chom_certs::server_config(&certificate, &bundle).unwrap();
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(Arc::new(tls)).unwrap()));
    config.transport_config(transport()).max_incoming(INCOMING_MAX);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let endpoint =
        Endpoint::new(EndpointConfig::default(), Some(config), socket.into(), Arc::new(TokioRuntime))
            .unwrap();
    say(&endpoint.local_addr().unwrap().to_string());
    runtime.spawn(async move {
        let mut connections: JoinSet<Option<Connection>> = JoinSet::new();
        let mut kept = Vec::new();
        loop {
            tokio::select! {
                incoming = endpoint.accept() => {
                    let Some(incoming) = incoming else { return };
                    connections.spawn(async move { incoming.accept().ok()?.await.ok() });
                }
                Some(connection) = connections.join_next() => kept.push(connection),
            }
        }
    });
    while hear().is_some() {}
}

/// The role of the clients: on `go`, makes all handshakes and says how many seconds it took.
pub(crate) fn connect(words: &[String]) {
    let [folder, address, count, window] = words else { panic!("floor-client FOLDER ADDRESS COUNT WINDOW") };
    let address: SocketAddr = address.parse().unwrap();
    let (count, window): (usize, usize) = (count.parse().unwrap(), window.parse().unwrap());
    let config = |number: usize| {
        let identity =
            Identity::load(&host_folder(Path::new(folder), number).join("state/identity")).unwrap();
        let tls = QuicClientConfig::try_from(chom_certs::client_config(&identity).unwrap()).unwrap();
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(transport());
        config
    };
    let configs: Vec<ClientConfig> = (0..count).map(config).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    say("ready");
    hear();
    let (seconds, _kept) = runtime.block_on(async {
        let (began, places) = (Instant::now(), Arc::new(Semaphore::new(window)));
        let mut tasks = JoinSet::new();
        for config in configs {
            let place = Arc::clone(&places).acquire_owned().await.unwrap();
            tasks.spawn(async move {
                let endpoint = Endpoint::client(([0, 0, 0, 0], 0).into()).unwrap();
                let connection = endpoint.connect_with(config, address, SERVER_NAME).unwrap().await.unwrap();
                drop(place);
                (endpoint, connection)
            });
        }
        let kept = tasks.join_all().await;
        (began.elapsed().as_secs_f64(), kept)
    });
    say(&seconds.to_string());
    while hear().is_some() {}
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IdleTimeout::try_from(IDLE).unwrap()));
    Arc::new(transport)
}
