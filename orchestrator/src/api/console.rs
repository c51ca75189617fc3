//! Consoles and screens as WebSockets (RFC 6455), tickets for them, new passwords. Every use is noted in the audit trail: who,
//! which VPS, from when to when.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Query, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use chom_protocol::VpsId;
use chom_protocol::api::console::{ConsoleNote, ConsoleOrder, ConsoleTicket, PasswordReset, ResetPassword};
use chom_protocol::link::tunnel::TerminalSize;
use serde::Deserialize;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::warn;

use crate::api::problem::{ApiError, Kind};
use crate::api::request::{Mutation, Order, RowId};
use crate::api::{App, answer, auth};
use crate::clock;
use crate::console::{Coming, ConsoleError, Consoles, Happened, SCREEN_IDLE, Viewer};
use crate::fleet::{Caller, Fleet};
use crate::session::{Tunnel, TunnelError};
use crate::store::Revision;

/// Largest message of a viewer: a pasted page.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// A viewer that takes nothing for so long is gone.
const WRITE_SECONDS_MAX: Duration = Duration::from_secs(30);
/// Viewers are asked so often whether they are there; proxies give up after a minute of silence.
const PING_EVERY: Duration = Duration::from_secs(20);
/// A viewer that says nothing, not even that it is there, is gone.
const SILENCE_SECONDS_MAX: Duration = Duration::from_secs(70);
/// Read at once of a screen.
const CHUNK_BYTES: usize = 16 * 1024;
/// Longest reason in a close frame (RFC 6455 section 5.5: 125 bytes with the code).
const CLOSE_REASON_BYTES_MAX: usize = 123;

impl From<ConsoleError> for ApiError {
    fn from(error: ConsoleError) -> Self {
        let kind = match error {
            ConsoleError::Fleet(error) => return error.into(),
            ConsoleError::Tunnel(TunnelError::Refused { retryable: false, .. }) => Kind::Conflict,
            ConsoleError::Tunnel(TunnelError::Busy) | ConsoleError::Full => Kind::TooMany,
            ConsoleError::Tunnel(_) => Kind::Unavailable,
            ConsoleError::Random => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

/// What the address of a console may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Address {
    ticket: Option<String>,
    #[serde(default)]
    take: bool,
    #[serde(default)]
    view: bool,
    columns: Option<u16>,
    rows: Option<u16>,
}

/// Who wants to look into a VPS: by a token, or by a ticket for it.
pub(super) struct Visitor {
    caller: Caller,
    vps: VpsId,
    address: Address,
    upgrade: WebSocketUpgrade,
}

impl FromRequestParts<App> for Visitor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let Query(address) = Query::<Address>::from_request_parts(parts, app).await.map_err(|error| {
            let detail = format!("the address takes ticket, take, view, columns and rows: {error}");
            ApiError::new(Kind::Malformed, detail)
        })?;
        let by_token = match address.ticket {
            None => Some(Caller::from_request_parts(parts, app).await?),
            Some(_) => None,
        };
        let RowId(vps) = RowId::<VpsId>::from_request_parts(parts, app).await?;
        let upgrade = WebSocketUpgrade::from_request_parts(parts, app).await;
        let upgrade = upgrade.map_err(|error: WebSocketUpgradeRejection| {
            let detail = format!("open this address as a WebSocket over HTTP/1.1 (RFC 6455): {error}");
            ApiError::new(Kind::Malformed, detail)
        })?;
        // Last: a ticket is used up by this.
        let redeem = || app.consoles.redeem(address.ticket.as_deref().unwrap_or_default(), vps);
        let caller = by_token.or_else(redeem).ok_or_else(|| {
            let detail =
                "this ticket is for another VPS, was used, or is older than a minute; get another one";
            ApiError::new(Kind::Unauthorised, detail).at("ticket")
        })?;
        let upgrade = upgrade.max_message_size(MESSAGE_BYTES_MAX).max_frame_size(MESSAGE_BYTES_MAX);
        Ok(Self { caller, vps, address, upgrade })
    }
}

/// Opens the console of a VPS: the serial line of a VM, a shell in a container. Binary messages are the terminal's bytes, text
/// messages are JSON: notes of the server, orders of the viewer. Several may look on; one of them writes.
#[utoipa::path(get, path = "/api/vps-servers/{vps}/console", tag = "VPSs", operation_id = "open_console",
    params(("vps" = VpsId, Path, description = "Its id."),
        ("ticket" = Option<String>, Query, description = "A ticket, where no token can be sent."),
        ("take" = Option<bool>, Query, description = "Write at once, whoever writes now."),
        ("view" = Option<bool>, Query, description = "Only watch."),
        ("columns" = Option<u16>, Query, description = "Of the viewer's terminal."),
        ("rows" = Option<u16>, Query, description = "Of the viewer's terminal.")),
    responses((status = 101, description = "A WebSocket.")))]
pub(super) async fn console(State(app): State<App>, visitor: Visitor) -> Result<Response, ApiError> {
    let Visitor { caller, vps, address, upgrade } = visitor;
    let usual = TerminalSize::default();
    let size = TerminalSize {
        columns: address.columns.unwrap_or(usual.columns),
        rows: address.rows.unwrap_or(usual.rows),
    };
    let coming = Coming { view: address.view, take: address.take, size: size.clamped() };
    let place = app.consoles.place()?;
    let (viewer, recent) = app.consoles.join(vps, coming).await?;
    let visit = Visit::begin(&app, caller, vps, "vps.console-open").await?;
    Ok(upgraded(&app.consoles, upgrade, move |socket| async move {
        let mut line = Line::new(socket, visit.clone_for_line());
        watch_console(&mut line, viewer, recent).await;
        drop(place);
        visit.end("vps.console-close").await;
    }))
}

/// Opens the screen of a VM: binary messages are the RFB protocol (RFC 6143), as noVNC and websockify speak it.
#[utoipa::path(get, path = "/api/vps-servers/{vps}/vnc", tag = "VPSs", operation_id = "open_screen",
    params(("vps" = VpsId, Path, description = "Its id."),
        ("ticket" = Option<String>, Query, description = "A ticket, where no token can be sent.")),
    responses((status = 101, description = "A WebSocket.")))]
pub(super) async fn vnc(State(app): State<App>, visitor: Visitor) -> Result<Response, ApiError> {
    let Visitor { caller, vps, address: _, upgrade } = visitor;
    let place = app.consoles.place()?;
    let tunnel = app.consoles.screen(vps).await?;
    let visit = Visit::begin(&app, caller, vps, "vps.screen-open").await?;
    let upgrade = upgrade.protocols(["binary"]);
    Ok(upgraded(&app.consoles, upgrade, move |socket| async move {
        let mut line = Line::new(socket, visit.clone_for_line());
        watch_screen(&mut line, tunnel).await;
        drop(place);
        visit.end("vps.screen-close").await;
    }))
}

/// Gives a ticket that opens the console or the screen of this VPS once, within a minute.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/console-token", tag = "VPSs", operation_id = "console_token",
    params(("vps" = VpsId, Path, description = "Its id.")),
    responses((status = 200, description = "The ticket; another one for each request.", body = ConsoleTicket)))]
pub(super) async fn token(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    _: Order,
) -> Result<Response, ApiError> {
    Ok(answer::row(&app.consoles.ticket(vps, &caller)?))
}

/// Sets a new password inside a VPS and answers it, once.
#[utoipa::path(post, path = "/api/vps-servers/{vps}/reset-password", tag = "VPSs", operation_id = "reset_password",
    params(("vps" = VpsId, Path, description = "Its id.")), request_body = ResetPassword,
    responses((status = 200, description = "The password; a repeated request does not get it again.", body = PasswordReset)))]
pub(super) async fn reset_password(
    State(app): State<App>,
    caller: Caller,
    RowId(vps): RowId<VpsId>,
    request: Mutation<ResetPassword>,
) -> Result<Response, ApiError> {
    let user = request.body.user.unwrap_or_else(|| "root".to_owned());
    let mut done = app.fleet.begin_reset(&caller, request.mark.clone(), vps, user.clone()).await?;
    if !done.replayed {
        match app.consoles.new_password(vps, &user).await {
            Ok(password) => done.value.password = Some(password.reveal().to_owned()),
            Err(error) => {
                app.fleet.undo_reset(&caller, request.mark, vps).await?;
                return Err(error.into());
            }
        }
    }
    Ok(answer::done(StatusCode::OK, &done))
}

impl answer::Row for ConsoleTicket {}
impl answer::Row for PasswordReset {}

/// Serves a WebSocket in a task that shutdown waits for.
fn upgraded<F>(
    consoles: &Consoles,
    upgrade: WebSocketUpgrade,
    serve: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, socket) = oneshot::channel();
    consoles.tasks().spawn(async move {
        if let Ok(socket) = socket.await {
            serve(socket).await;
        }
    });
    // The callback runs in a task of the framework's own, and only hands the socket over.
    upgrade.on_upgrade(move |socket| async move { drop(sender.send(socket)) })
}

/// One look of somebody into a VPS, with its beginning in the audit trail.
struct Visit {
    fleet: Fleet,
    consoles: Consoles,
    caller: Caller,
    vps: VpsId,
    began: Instant,
    /// Heard when it may not be allowed any more.
    news: watch::Receiver<Revision>,
}

impl Visit {
    async fn begin(app: &App, caller: Caller, vps: VpsId, action: &'static str) -> Result<Self, ApiError> {
        let news = app.fleet.console_news(vps)?;
        app.fleet.note(&caller, action, vps.to_string()).await?;
        let (fleet, consoles) = (app.fleet.clone(), app.consoles.clone());
        Ok(Self { fleet, consoles, caller, vps, began: Instant::now(), news })
    }

    fn clone_for_line(&self) -> Self {
        let Self { fleet, consoles, caller, vps, began, news } = self;
        let (fleet, consoles, news) = (fleet.clone(), consoles.clone(), news.clone());
        Self { fleet, consoles, caller: caller.clone(), vps: *vps, began: *began, news }
    }

    /// Why it may not go on, if so.
    fn check(&self) -> Result<(), Over> {
        if !auth::still_valid(&self.fleet.state(), &self.caller, clock::now()) {
            return Err(Over::Ended("your token is not good any more".to_owned()));
        }
        match self.fleet.console_host(self.vps) {
            Ok(_) => Ok(()),
            Err(error) => Err(Over::Ended(error.to_string())),
        }
    }

    async fn end(self, action: &'static str) {
        let target = format!("{} after {} s", self.vps, self.began.elapsed().as_secs());
        if let Err(error) = self.fleet.note(&self.caller, action, target).await {
            warn!(%error, "the end of a console is not in the audit trail");
        }
    }
}

/// A viewer's WebSocket: sent to and heard from under deadlines.
struct Line {
    socket: WebSocket,
    visit: Visit,
    heard_at: Instant,
    ticks: tokio::time::Interval,
}

/// What a viewer sent.
enum Sent {
    Bytes(Bytes),
    Order(ConsoleOrder),
}

/// Why a line is over.
enum Over {
    /// The viewer went.
    Gone,
    /// We end it.
    Ended(String),
}

impl Line {
    fn new(socket: WebSocket, visit: Visit) -> Self {
        let mut ticks = interval(PING_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { socket, visit, heard_at: Instant::now(), ticks }
    }

    async fn send(&mut self, message: Message) -> Result<(), Over> {
        match timeout(WRITE_SECONDS_MAX, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over::Gone),
        }
    }

    async fn note(&mut self, note: &ConsoleNote) -> Result<(), Over> {
        // A note of texts and numbers always has a JSON text.
        let text = serde_json::to_string(note).unwrap_or_default();
        self.send(Message::Text(text.into())).await
    }

    /// What the viewer sends next. Cancel-safe: it keeps what it read of a message.
    async fn hear(&mut self) -> Result<Sent, Over> {
        loop {
            let message = tokio::select! {
                message = self.socket.recv() => message,
                _ = self.ticks.tick() => {
                    self.look().await?;
                    continue;
                }
                Ok(()) = self.visit.news.changed() => {
                    self.visit.check()?;
                    continue;
                }
            };
            self.heard_at = Instant::now();
            match message {
                Some(Ok(Message::Binary(bytes))) => return Ok(Sent::Bytes(bytes)),
                Some(Ok(Message::Text(text))) => {
                    let order = serde_json::from_str(text.as_str());
                    return order.map(Sent::Order).map_err(|_| {
                        Over::Ended(
                            "this order is not known; text messages are JSON such as {\"type\":\"resize\"}"
                                .to_owned(),
                        )
                    });
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Over::Gone),
            }
        }
    }

    /// Whether everything is as it was.
    async fn look(&mut self) -> Result<(), Over> {
        if self.heard_at.elapsed() > SILENCE_SECONDS_MAX {
            return Err(Over::Gone);
        }
        self.visit.check()?;
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Says why it is over, if somebody is there to hear it.
    async fn end(&mut self, over: Over, with_note: bool) {
        let Over::Ended(reason) = over else { return };
        if with_note && self.note(&ConsoleNote::End { reason: reason.clone() }).await.is_err() {
            return;
        }
        let short = &reason[..reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX)];
        let frame = CloseFrame { code: close_code::NORMAL, reason: short.into() };
        let _ = self.send(Message::Close(Some(frame))).await; // whoever is gone needs no reason
    }
}

async fn watch_console(line: &mut Line, mut viewer: Viewer, recent: Vec<u8>) {
    let Err(over) = follow_console(line, &mut viewer, recent).await;
    drop(viewer); // the next writer need not wait for this one's goodbye
    line.end(over, true).await;
}

async fn follow_console(
    line: &mut Line,
    viewer: &mut Viewer,
    recent: Vec<u8>,
) -> Result<std::convert::Infallible, Over> {
    let mut told = viewer.role();
    line.note(&ConsoleNote::Role { writer: told.0, viewers: told.1 }).await?;
    if !recent.is_empty() {
        line.send(Message::Binary(recent.into())).await?;
    }
    let stop = line.visit.consoles.stop();
    loop {
        tokio::select! { // every arm is cancel-safe
            () = stop.cancelled() => return Err(Over::Ended(GOING_DOWN.to_owned())),
            happened = viewer.next() => match happened {
                Happened::Said(chunk) => line.send(Message::Binary(chunk)).await?,
                Happened::Missed => line.note(&ConsoleNote::Missed).await?,
                Happened::Changed if viewer.role() == told => {}
                Happened::Changed => {
                    told = viewer.role();
                    line.note(&ConsoleNote::Role { writer: told.0, viewers: told.1 }).await?;
                }
                Happened::Ended => return Err(Over::Ended(viewer.reason().to_owned())),
            },
            sent = line.hear() => match sent? {
                Sent::Order(ConsoleOrder::Resize { columns, rows }) => {
                    viewer.resize(TerminalSize { columns, rows }.clamped());
                }
                Sent::Bytes(bytes) if viewer.role().0 => type_in(viewer, bytes).await?,
                // Who only watches is told so, and what it types goes nowhere.
                Sent::Bytes(_) => {
                    let (writer, viewers) = viewer.role();
                    line.note(&ConsoleNote::Role { writer, viewers }).await?;
                }
            },
        }
    }
}

/// Hands over what was typed, as soon as the guest has room for it.
async fn type_in(viewer: &Viewer, bytes: Bytes) -> Result<(), Over> {
    match timeout(WRITE_SECONDS_MAX, viewer.room()).await {
        Ok(Some(room)) => {
            room.send(bytes);
            Ok(())
        }
        Ok(None) => Err(Over::Ended(viewer.reason().to_owned())),
        Err(_) => Err(Over::Ended("the guest takes nothing of what is typed".to_owned())),
    }
}

const GOING_DOWN: &str = "the orchestrator is going down; open it again in a moment";

async fn watch_screen(line: &mut Line, mut tunnel: Tunnel) {
    let Err(over) = follow_screen(line, &mut tunnel).await;
    // noVNC takes text for a fault of the server: the reason is in the close frame alone.
    line.end(over, false).await;
}

async fn follow_screen(line: &mut Line, tunnel: &mut Tunnel) -> Result<std::convert::Infallible, Over> {
    let stop = line.visit.consoles.stop();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut sent_at = Instant::now();
    loop {
        tokio::select! { // every arm is cancel-safe
            () = stop.cancelled() => return Err(Over::Ended(GOING_DOWN.to_owned())),
            read = tunnel.back.read(&mut chunk) => match read {
                Ok(Some(count)) => line.send(Message::Binary(Bytes::copy_from_slice(&chunk[..count]))).await?,
                Ok(None) => return Err(Over::Ended("the screen ended; the VPS may have been switched off".to_owned())),
                Err(_) => return Err(Over::Ended("the connection to the host broke; open it again when it is back".to_owned())),
            },
            sent = line.hear() => match sent? {
                Sent::Bytes(bytes) => {
                    sent_at = Instant::now();
                    if !matches!(timeout(WRITE_SECONDS_MAX, tunnel.out.write_all(&bytes)).await, Ok(Ok(()))) {
                        return Err(Over::Ended("the screen takes nothing any more".to_owned()));
                    }
                }
                Sent::Order(_) => return Err(Over::Ended("a screen takes binary messages only".to_owned())),
            },
            () = tokio::time::sleep_until(sent_at + SCREEN_IDLE) => {
                return Err(Over::Ended("nothing was sent to the screen for 30 minutes".to_owned()));
            }
        }
    }
}
