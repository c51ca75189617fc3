//! The floor under an answer: a bare axum handler over TLS that gives the same bytes to every request, in a process of its own.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use chom_certs::ServerCertificate;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::floor::{CHAIN_FILE, KEY_FILE};
use crate::role::{hear, say};

/// The file of the bytes, in the world's folder.
pub(crate) const BODY_FILE: &str = "bare-body.json";

/// The role: serves until its input ends, and says where.
pub(crate) fn serve(words: &[String]) {
    let folder = Path::new(&words[0]);
    let read = |path: &str| std::fs::read_to_string(folder.join(path)).unwrap();
    let certificate = ServerCertificate::from_pem(&read(CHAIN_FILE), &read(KEY_FILE)).unwrap();
    let tls = TlsAcceptor::from(Arc::new(chom_certs::https_server_config(&certificate).unwrap()));
    let body: &'static str = read(BODY_FILE).leak();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    say(&listener.local_addr().unwrap().to_string());
    runtime.spawn(async move {
        let answer = move || async move { ([(CONTENT_TYPE, "application/json")], body) };
        let router: Router = Router::new().route("/{*any}", get(answer));
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (tls, service) = (tls.clone(), TowerToHyperService::new(router.clone()));
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(stream).await else { return };
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that leaves is no trouble.
                let _ = serving.await;
            });
        }
    });
    while hear().is_some() {}
}
