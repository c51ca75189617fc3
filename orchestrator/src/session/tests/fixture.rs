//! An orchestrator on a port of its own, and agents that say exactly what they are told.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chom_certs::{ALPN_LINK, CaBundle, HostKey, Identity, JoinCode, client_config, enrol_client_config};
use chom_protocol::api::hosts::AddHost;
use chom_protocol::api::tokens::Role;
use chom_protocol::api::vps_servers::CreateVps;
use chom_protocol::host::{Acceleration, EngineStatus, HostSpec, HostStatus, Inventory};
use chom_protocol::link::codec::{HEADER_BYTES, decode, encode, payload_length};
use chom_protocol::link::{Close, FleetInfo, Hello, SpecAssembly, Standing, ToAgent, ToOrchestrator};
use chom_protocol::vps::Engine;
use chom_protocol::{BootId, Bytes, Generation, HostId, InstanceId, Name, TokenId, UnixMillis, VpsId};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use tempfile::TempDir;
use uuid::Uuid;

use crate::config::Config;
use crate::fleet::{Caller, RequestMark};
use crate::run::{Running, start};

/// For what takes milliseconds on loopback.
const DEADLINE: Duration = Duration::from_secs(20);

/// The content of the one image.
pub(super) const IMAGE: &[u8] = &[7; 200_000];

/// Fails the test when something does not happen.
pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("it did not happen in time")
}

/// Waits until a condition holds.
pub(super) async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(super) fn caller() -> Caller {
    Caller {
        name: "admin".into(),
        token: TokenId::new(Uuid::from_u128(1)),
        role: Role::Admin,
        tenant: None,
        vps: None,
        origin: Default::default(),
    }
}

pub(super) fn instance(number: u128) -> InstanceId {
    InstanceId::new(Uuid::from_u128(number))
}

/// An orchestrator that runs.
pub(super) struct World {
    pub(super) running: Running,
    pub(super) config: Config,
    pub(super) folder: TempDir,
    client: Endpoint,
}

pub(super) fn config(folder: &Path) -> Config {
    let text = format!(
        r#"
        state_directory = "{0}/state"
        export_directory = "{0}/exports"
        master_key = "{0}/master.key"
        listen_link = "[::1]:0"
        listen_api = "[::1]:0"
        public_addresses = ["localhost:8440"]
        regions = ["us-east"]
        [overcommit]
        memory_reserved_mib = 0
        disk_reserved_mib = 0
        [[size]]
        name = "small"
        cores = 1
        memory_mib = 256
        disk_mib = 1024
        [[image]]
        name = "hello"
        file = "{0}/hello.img"
        engine = "fake"
        format = "raw"
        default = true
        "#,
        folder.display()
    );
    Config::parse(&text, Path::new("test")).unwrap()
}

impl World {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hello.img"), IMAGE).unwrap();
        crate::init::init(&config(folder.path())).await.unwrap();
        Self::start(folder).await
    }

    pub(super) async fn start(folder: TempDir) -> Self {
        let config = config(folder.path());
        let running = start(&config).await.unwrap();
        let client = Endpoint::client("[::1]:0".parse().unwrap()).unwrap();
        Self { running, config, folder, client }
    }

    pub(super) async fn invite(&self, host: &str) -> JoinCode {
        let request = AddHost { name: name(host), region: name("us-east"), host: None };
        let added = self.running.fleet.add_host(&caller(), RequestMark::default(), request).await.unwrap();
        added.value.join_code.parse().unwrap()
    }

    pub(super) async fn dial(&self, tls: rustls::ClientConfig) -> Result<Connection, ConnectionError> {
        let quic = QuicClientConfig::try_from(Arc::new(tls)).unwrap();
        let connecting = self.client.connect_with(
            ClientConfig::new(Arc::new(quic)),
            self.running.link_address,
            "localhost",
        );
        within(connecting.unwrap()).await
    }

    /// A dialled connection that shows no certificate and says it is an agent's.
    pub(super) async fn dial_nameless(&self, code: &JoinCode) -> Result<Connection, ConnectionError> {
        let mut tls = enrol_client_config(*code.fingerprint()).unwrap();
        tls.alpn_protocols = vec![ALPN_LINK.to_vec()];
        self.dial(tls).await
    }

    /// Presents a token for the key in the folder.
    pub(super) async fn enrol(&self, code: &JoinCode, folder: &Path) -> ToAgent {
        let connection = self.dial(enrol_client_config(*code.fingerprint()).unwrap()).await.unwrap();
        let csr = HostKey::load_or_create(folder).unwrap().csr_der().unwrap();
        let token = code.token().reveal();
        request(&connection, &ToOrchestrator::Enrol { token, csr, hostname: "host".to_owned() }).await
    }

    /// A host that has enrolled.
    pub(super) async fn host(&self, host: &str) -> Host {
        let code = self.invite(host).await;
        let folder = tempfile::tempdir().unwrap();
        let ToAgent::Enrolled { host, certificate, fleet } = self.enrol(&code, folder.path()).await else {
            panic!("not enrolled")
        };
        let bundle = CaBundle::new(&fleet.ca_bundle).unwrap();
        let key = HostKey::load_or_create(folder.path()).unwrap();
        Host { id: host, identity: key.install(&certificate, bundle).unwrap(), _folder: folder }
    }

    /// A host that has enrolled, and its agent, connected.
    pub(super) async fn agent(&self, host: &str) -> (Host, Agent) {
        let host = self.host(host).await;
        let agent = self.connect(&host, 1).await.unwrap();
        (host, agent)
    }

    /// Connects a run of a host's agent and hears what it may do.
    pub(super) async fn connect(&self, host: &Host, run: u128) -> Result<Agent, ConnectionError> {
        self.greet(host, host.id, run).await
    }

    pub(super) async fn greet(&self, host: &Host, says: HostId, run: u128) -> Result<Agent, ConnectionError> {
        let connection = self.dial(client_config(&host.identity).unwrap()).await?;
        let (mut send, mut receive) = within(connection.open_bi()).await?;
        let hello = Hello {
            host: says,
            instance: instance(run),
            boot: BootId::new(Uuid::from_u128(9)),
            agent_version: "0.1.0".to_owned(),
            accepted: Generation::default(),
        };
        // Refused connections may be closed at any moment from here on.
        let _ = send.write_all(&encode(&ToOrchestrator::Hello(hello)).unwrap()).await;
        match within(read(&mut receive)).await {
            Some(ToAgent::Welcome { standing, fleet }) => {
                Ok(Agent { connection, control: (send, receive), standing, fleet })
            }
            Some(other) => panic!("{other:?}"),
            None => Err(within(connection.closed()).await),
        }
    }

    pub(super) async fn create(&self, vps: &str) -> VpsId {
        let request = CreateVps {
            engine: None,
            name: name(vps),
            region: name("us-east"),
            size: name("small"),
            image: None,
            network: None,
            ssh_keys: Vec::new(),
            tenant_keys: None,
            user_data: Some("#cloud-config\n".to_owned()),
            guest_shutdown: Default::default(),
            anti_affinity: None,
            host_labels: Default::default(),
            tenant: None,
            external_id: None,
        };
        let created =
            self.running.fleet.create_vps(&caller(), RequestMark::default(), request).await.unwrap();
        created.value.vps.id
    }
}

/// An enrolled host.
pub(super) struct Host {
    pub(super) id: HostId,
    pub(super) identity: Identity,
    _folder: TempDir,
}

/// A connected agent.
pub(super) struct Agent {
    pub(super) connection: Connection,
    pub(super) control: (SendStream, RecvStream),
    pub(super) standing: Standing,
    pub(super) fleet: FleetInfo,
}

impl Agent {
    pub(super) async fn request(&self, message: &ToOrchestrator) -> ToAgent {
        request(&self.connection, message).await
    }

    /// Fetches a blob from an offset on: its size and the bytes that came.
    pub(super) async fn fetch(
        &self,
        sha256: chom_protocol::vps::Sha256,
        offset: u64,
    ) -> Result<(u64, Vec<u8>), String> {
        let (mut send, mut receive) = within(self.connection.open_bi()).await.unwrap();
        let message = ToOrchestrator::Fetch { sha256, offset: Bytes(offset) };
        send.write_all(&encode(&message).unwrap()).await.unwrap();
        send.finish().unwrap();
        match within(read(&mut receive)).await.unwrap() {
            ToAgent::Blob { size } => Ok((size.0, within(receive.read_to_end(1 << 24)).await.unwrap())),
            ToAgent::Problem { problem } => Err(problem),
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn closed(&self) -> Option<Close> {
        close_of(&within(self.connection.closed()).await)
    }

    /// Says that a host with room for VPSs is there.
    pub(super) async fn report(&self, status: HostStatus) {
        assert_eq!(self.request(&ToOrchestrator::Status(Box::new(status))).await, ToAgent::Acknowledged);
    }
}

/// Why the orchestrator closed a connection, if it did.
pub(super) fn close_of(error: &ConnectionError) -> Option<Close> {
    match error {
        ConnectionError::ApplicationClosed(closed) => Close::from_code(closed.error_code.into_inner()),
        _ => None,
    }
}

pub(super) async fn say(stream: &mut SendStream, message: &ToOrchestrator) {
    within(stream.write_all(&encode(message).unwrap())).await.unwrap();
}

/// The next message of a stream; none when it or its connection ended.
pub(super) async fn read(stream: &mut RecvStream) -> Option<ToAgent> {
    let mut header = [0; HEADER_BYTES];
    stream.read_exact(&mut header).await.ok()?;
    let mut payload = vec![0; payload_length::<ToAgent>(header).unwrap()];
    stream.read_exact(&mut payload).await.ok()?;
    Some(decode(&payload).unwrap())
}

async fn request(connection: &Connection, message: &ToOrchestrator) -> ToAgent {
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    say(&mut send, message).await;
    send.finish().unwrap();
    within(read(&mut receive)).await.expect("an answer")
}

/// Reads one whole desired state from a pull stream.
pub(super) async fn read_spec(stream: &mut RecvStream) -> HostSpec {
    let Some(ToAgent::SpecBegin(begin)) = within(read(stream)).await else { panic!("no beginning") };
    let mut assembly = SpecAssembly::begin(begin).unwrap();
    loop {
        match within(read(stream)).await {
            Some(ToAgent::SpecPart(part)) => assembly.add(part).unwrap(),
            Some(ToAgent::SpecEnd { digest }) => return assembly.finish(digest).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn status() -> HostStatus {
    HostStatus {
        prefetch: Default::default(),
        boot: BootId::new(Uuid::from_u128(9)),
        observed_at: UnixMillis(1),
        accepted: Generation::default(),
        reconciled: Generation::default(),
        inventory: Inventory {
            cores: 64,
            memory: Bytes::gib(64),
            disk: Bytes::gib(1000),
            hostname: "host".to_owned(),
            ..Inventory::default()
        },
        engines: vec![EngineStatus {
            engine: Engine::Fake,
            version: "1".to_owned(),
            acceleration: Acceleration::None,
            problem: None,
        }],
        vps: Default::default(),
        foreign: Vec::new(),
        orphans: Vec::new(),
        destroys_waiting: Vec::new(),
        problems: Vec::new(),
    }
}
