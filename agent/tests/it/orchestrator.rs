//! An orchestrator that speaks the link and does as a test tells it. Keeps everything that agents say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use chom_agent::clock;
use chom_certs::{Authority, CaBundle, peer_identity};
use chom_protocol::Bytes;
use chom_protocol::host::{HostSpec, HostStatus};
use chom_protocol::job::JobResult;
use chom_protocol::link::codec::{self, HEADER_BYTES};
use chom_protocol::link::{Close, FleetInfo, Hello, SpecAssembly, Standing, ToAgent, ToOrchestrator, v1};
use chom_protocol::sample::Sample;
use chom_protocol::vps::Sha256;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use tokio::sync::watch;

/// What agents said, and what to tell them.
#[derive(Debug)]
pub struct Told {
    pub hellos: Vec<Hello>,
    pub statuses: Vec<HostStatus>,
    pub results: Vec<JobResult>,
    pub samples: Vec<Sample>,
    pub accepted: Vec<String>,
    pub refused: Vec<String>,
    pub ledgers: Vec<HostSpec>,
    pub renewals: usize,
    pub fetches: Vec<u64>,
    pub enrolled: Vec<String>,
    /// From here on what the orchestrator does.
    pub standing: Standing,
    pub blobs: BTreeMap<Sha256, Vec<u8>>,
    /// The next blob is cut after so many bytes.
    pub cut_after: Option<usize>,
    /// Results are answered with a problem.
    pub refuse_results: bool,
    pub host: Option<chom_protocol::HostId>,
}

#[derive(Clone)]
pub struct Orchestrator {
    pub authority: Arc<Authority>,
    pub address: SocketAddr,
    told: Arc<Mutex<Told>>,
    spec: watch::Sender<Option<HostSpec>>,
    endpoint: Arc<Mutex<Option<Endpoint>>>,
    connections: Arc<Mutex<Vec<Connection>>>,
}

impl Orchestrator {
    pub fn start() -> Self {
        let authority = Arc::new(Authority::create(&"test".parse().unwrap(), clock::now()).unwrap());
        let told = Told {
            hellos: vec![],
            statuses: vec![],
            results: vec![],
            samples: vec![],
            accepted: vec![],
            refused: vec![],
            ledgers: vec![],
            renewals: 0,
            fetches: vec![],
            enrolled: vec![],
            standing: Standing::Managed,
            blobs: BTreeMap::new(),
            cut_after: None,
            refuse_results: false,
            host: None,
        };
        // Free a moment ago, and nobody else's in a moment.
        let address = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let orchestrator = Self {
            authority,
            address,
            told: Arc::new(Mutex::new(told)),
            spec: watch::Sender::new(None),
            endpoint: Arc::default(),
            connections: Arc::default(),
        };
        orchestrator.listen();
        orchestrator
    }

    /// Listens (again) on its address.
    pub fn listen(&self) {
        let names = vec!["localhost".to_owned()];
        let certificate = self.authority.sign_server(&names, clock::now()).unwrap();
        let tls = chom_certs::server_config(&certificate, &self.bundle()).unwrap();
        let quic = QuicServerConfig::try_from(Arc::new(tls)).unwrap();
        let endpoint = Endpoint::server(ServerConfig::with_crypto(Arc::new(quic)), self.address).unwrap();
        *self.endpoint.lock().unwrap() = Some(endpoint.clone());
        let this = self.clone();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let this = this.clone();
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        this.connections.lock().unwrap().push(connection.clone());
                        this.serve(connection).await;
                    }
                });
            }
        });
    }

    /// Goes away and gives its port back.
    pub async fn vanish(&self) {
        self.close(Close::Shutdown);
        let endpoint = self.endpoint.lock().unwrap().take().unwrap();
        endpoint.close(Close::Shutdown.code().into(), b"");
        endpoint.wait_idle().await;
        drop(endpoint);
        // The socket goes with the last handle, which a task holds a moment longer.
        let address = self.address;
        wait("the port to be free", || std::net::UdpSocket::bind(address).is_ok()).await;
    }

    /// Closes every connection.
    pub fn close(&self, why: Close) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.close(why.code().into(), b"as the test says");
        }
    }

    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    pub fn bundle(&self) -> CaBundle {
        CaBundle::new([self.authority.certificate_der()]).unwrap()
    }

    pub fn want(&self, spec: HostSpec) {
        self.spec.send_replace(Some(spec));
    }

    fn fleet(&self) -> FleetInfo {
        FleetInfo {
            orchestrators: vec![self.address.to_string()],
            ca_bundle: vec![self.authority.certificate_der().to_vec()],
        }
    }

    async fn serve(&self, connection: Connection) {
        while let Ok((out, back)) = connection.accept_bi().await {
            let (this, connection) = (self.clone(), connection.clone());
            // A stream that breaks is the end of a test's connection, no fault of the test.
            tokio::spawn(async move {
                tokio::select! {
                    _ = this.stream(&connection, out, back) => {}
                    _ = connection.closed() => {}
                }
            });
        }
    }

    async fn stream(&self, connection: &Connection, mut out: SendStream, mut back: RecvStream) -> Option<()> {
        match read(&mut back).await? {
            ToOrchestrator::Hello(hello) => {
                let standing = self.told().standing;
                self.told().hellos.push(hello);
                say(&mut out, &ToAgent::Welcome { standing, fleet: self.fleet() }).await?;
                if standing == Standing::Hold {
                    say(&mut out, &ToAgent::LedgerWanted).await?;
                }
                self.control(connection, out, back).await
            }
            ToOrchestrator::Pull { have } => self.pull(out, back, have).await,
            ToOrchestrator::Fetch { sha256, offset } => self.blob(out, sha256, offset).await,
            ToOrchestrator::Enrol { token, csr, hostname: _ } => {
                let host = self.told().host.unwrap();
                self.told().enrolled.push(token);
                let certificate = self.authority.sign_host(&csr, host, clock::now()).unwrap().der;
                let answer = ToAgent::Enrolled { host, certificate, fleet: self.fleet() };
                say(&mut out, &answer).await
            }
            report => {
                let answer = self.keep(report);
                say(&mut out, &answer).await?;
                out.finish().ok()
            }
        }
    }

    fn keep(&self, report: ToOrchestrator) -> ToAgent {
        let mut told = self.told();
        match report {
            ToOrchestrator::Status(status) => told.statuses.push(*status),
            ToOrchestrator::Results(_) if told.refuse_results => {
                return ToAgent::Problem { problem: "the disk is full".to_owned() };
            }
            ToOrchestrator::Results(results) => told.results.extend(results),
            ToOrchestrator::Samples(samples) => told.samples.extend(samples),
            other => panic!("a stream began with {other:?}"),
        }
        ToAgent::Acknowledged
    }

    async fn control(
        &self,
        connection: &Connection,
        mut out: SendStream,
        mut back: RecvStream,
    ) -> Option<()> {
        let mut assembly = None;
        loop {
            match read(&mut back).await? {
                ToOrchestrator::Renew { csr } => {
                    let chain = connection.peer_identity().unwrap();
                    let chain: Box<Vec<rustls::pki_types::CertificateDer<'static>>> =
                        chain.downcast().unwrap();
                    let peer = peer_identity(&chain, &self.bundle(), clock::now()).unwrap();
                    self.told().renewals += 1;
                    self.told().standing = Standing::Managed;
                    let certificate = self.authority.renew_host(&csr, &peer, clock::now()).unwrap().der;
                    say(&mut out, &ToAgent::Renewed { certificate }).await?;
                }
                ToOrchestrator::LedgerBegin(begin) => assembly = Some(SpecAssembly::begin(begin).unwrap()),
                ToOrchestrator::LedgerPart(part) => assembly.as_mut().unwrap().add(part).unwrap(),
                ToOrchestrator::LedgerEnd { digest } => {
                    let ledger = assembly.take().unwrap().finish(digest).unwrap();
                    self.told().ledgers.push(ledger);
                }
                ToOrchestrator::FleetKept { ca_bundle } => assert_eq!(ca_bundle, self.bundle().digest()),
                other => panic!("control says {other:?}"),
            }
        }
    }

    async fn pull(
        &self,
        mut out: SendStream,
        mut back: RecvStream,
        mut have: chom_protocol::Generation,
    ) -> Option<()> {
        let mut changes = self.spec.subscribe();
        let mut sent: Option<HostSpec> = None;
        loop {
            let spec = {
                let news = |spec: &Option<HostSpec>| {
                    spec.as_ref().is_some_and(|spec| spec.generation != have || sent.is_some())
                        && *spec != sent
                };
                changes.wait_for(news).await.ok()?.clone().unwrap()
            };
            sent = Some(spec.clone());
            let (begin, parts, digest) = v1::spec_parts(&spec);
            say(&mut out, &ToAgent::SpecBegin(begin)).await?;
            for part in parts {
                say(&mut out, &ToAgent::SpecPart(part)).await?;
            }
            say(&mut out, &ToAgent::SpecEnd { digest }).await?;
            match read(&mut back).await? {
                ToOrchestrator::Accepted { generation } => self.told().accepted.push(generation.to_string()),
                ToOrchestrator::Refused { problem, .. } => self.told().refused.push(problem),
                other => panic!("pull says {other:?}"),
            }
            match read(&mut back).await? {
                ToOrchestrator::Pull { have: now } => have = now,
                other => panic!("pull says {other:?}"),
            }
        }
    }

    async fn blob(&self, mut out: SendStream, sha256: Sha256, offset: Bytes) -> Option<()> {
        self.told().fetches.push(offset.0);
        let blob = self.told().blobs.get(&sha256).cloned();
        let Some(blob) = blob else {
            return say(&mut out, &ToAgent::Problem { problem: "no such blob".to_owned() }).await;
        };
        say(&mut out, &ToAgent::Blob { size: Bytes(blob.len() as u64) }).await?;
        let rest = &blob[usize::try_from(offset.0).unwrap()..];
        let cut = self.told().cut_after.take();
        match cut {
            Some(bytes) => {
                out.write_all(&rest[..bytes]).await.ok()?;
                // Lost bytes of a reset stream would make the test's offset unsure.
                out.finish().ok()
            }
            None => {
                out.write_all(rest).await.ok()?;
                out.finish().ok()
            }
        }
    }
}

async fn read(back: &mut RecvStream) -> Option<ToOrchestrator> {
    let mut header = [0; HEADER_BYTES];
    back.read_exact(&mut header).await.ok()?;
    let length = codec::payload_length::<ToOrchestrator>(header).unwrap();
    let mut payload = vec![0; length];
    back.read_exact(&mut payload).await.ok()?;
    Some(codec::decode(&payload).unwrap())
}

async fn say(out: &mut SendStream, message: &ToAgent) -> Option<()> {
    out.write_all(&codec::encode(message).unwrap()).await.ok()
}

/// Waits until something is so; long only for machines under load.
pub async fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}
