//! One connection to the mail server: what it answers to each command, and where it breaks.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::{Break, Fault, Kept, Options, Protection, Received, Step};

/// Longest line and mail that are read.
const LINE_BYTES_MAX: u64 = 16 * 1024;
const MAIL_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One connection.
pub(super) struct Session {
    options: Arc<Options>,
    kept: Arc<Mutex<Kept>>,
    hello: String,
    user: Option<String>,
    tls: bool,
    from: Option<String>,
    to: Vec<String>,
}

/// What to do after a command.
enum Next {
    Go,
    Upgrade,
    End,
}

impl Session {
    pub(super) fn new(options: Arc<Options>, kept: Arc<Mutex<Kept>>) -> Self {
        let (hello, to) = (String::new(), Vec::new());
        Self { options, kept, hello, user: None, tls: false, from: None, to }
    }

    pub(super) async fn serve(mut self, stream: TcpStream) -> io::Result<()> {
        match self.options.protection.clone() {
            Protection::None => {
                let mut stream = BufReader::new(stream);
                if self.greet(&mut stream).await? {
                    self.talk(&mut stream).await?;
                }
            }
            Protection::Starttls(config) => {
                let mut stream = BufReader::new(stream);
                if self.greet(&mut stream).await? && matches!(self.talk(&mut stream).await?, Next::Upgrade) {
                    let stream = TlsAcceptor::from(config).accept(stream.into_inner()).await?;
                    self.tls = true;
                    self.talk(&mut BufReader::new(stream)).await?;
                }
            }
            Protection::Tls(config) => {
                let mut stream = BufReader::new(TlsAcceptor::from(config).accept(stream).await?);
                self.tls = true;
                if self.greet(&mut stream).await? {
                    self.talk(&mut stream).await?;
                }
            }
        }
        Ok(())
    }

    async fn greet(&self, stream: &mut (impl AsyncWrite + Unpin)) -> io::Result<bool> {
        Ok(matches!(self.answer(stream, Step::Greeting, "220 mail.test ESMTP").await?, Next::Go))
    }

    /// Answers, or breaks as asked.
    async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        step: Step,
        usual: &str,
    ) -> io::Result<Next> {
        let (text, next) = match self.fault(step) {
            None => (usual.to_owned(), Next::Go),
            Some(Break::Answer(text)) => {
                let next = if text.starts_with("421") { Next::End } else { Next::Go };
                (text, next)
            }
            Some(Break::Stall) => std::future::pending().await,
            Some(Break::HangUp | Break::TakeAndHangUp) => return Ok(Next::End),
        };
        stream.write_all(format!("{text}\r\n").as_bytes()).await?;
        stream.flush().await?;
        Ok(next)
    }

    fn fault(&self, step: Step) -> Option<Break> {
        let mut kept = self.kept.lock().unwrap();
        let hits = |fault: &&mut Fault| {
            let of_recipient = fault.recipient.as_ref().is_none_or(|only| self.to.contains(only));
            fault.step == step && fault.times > 0 && of_recipient
        };
        let fault = kept.faults.iter_mut().find(hits)?;
        fault.times = fault.times.saturating_sub(1);
        Some(fault.how.clone())
    }

    async fn talk(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + AsyncBufReadExt + Unpin),
    ) -> io::Result<Next> {
        while let Some(line) = read_line(stream).await? {
            let upper = line.to_ascii_uppercase();
            let next = if upper.starts_with("EHLO") || upper.starts_with("HELO") {
                self.hello = line[4..].trim().to_owned();
                let offers = self.offers();
                self.answer(stream, Step::Hello, &offers).await?
            } else if upper == "STARTTLS" && !self.tls {
                match self.answer(stream, Step::Starttls, "220 go ahead").await? {
                    Next::Go => Next::Upgrade,
                    other => other,
                }
            } else if upper.starts_with("AUTH ") {
                self.login(stream, &line[5..]).await?
            } else if upper.starts_with("MAIL FROM:") {
                self.sender(stream, &line[10..]).await?
            } else if upper.starts_with("RCPT TO:") {
                self.recipient(stream, &line[8..]).await?
            } else if upper == "DATA" {
                self.data(stream).await?
            } else {
                let (text, next) = match upper.as_str() {
                    "QUIT" => ("221 bye", Next::End),
                    "NOOP" | "RSET" => ("250 ok", Next::Go),
                    _ => ("502 5.5.1 no such command here", Next::Go),
                };
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                stream.flush().await?;
                next
            };
            if !matches!(next, Next::Go) {
                return Ok(next);
            }
        }
        Ok(Next::End)
    }

    fn offers(&self) -> String {
        let mut lines = vec!["mail.test".to_owned(), "8BITMIME".to_owned()];
        let clear = matches!(self.options.protection, Protection::Starttls(_)) && !self.tls;
        if clear {
            lines.push("STARTTLS".to_owned());
        }
        if let Some(login) = self.options.login.as_ref().filter(|_| !clear) {
            lines.push(format!("AUTH {}", login.mechanisms));
        }
        let last = lines.len() - 1;
        let line =
            |(place, text): (usize, &String)| format!("250{}{text}", if place == last { ' ' } else { '-' });
        lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\r\n")
    }

    async fn login(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + AsyncBufReadExt + Unpin),
        command: &str,
    ) -> io::Result<Next> {
        let Some(login) = self.options.login.clone() else {
            return self.answer(stream, Step::Auth, "502 5.5.1 no login here").await;
        };
        let (mechanism, initial) = command.split_once(' ').unwrap_or((command, ""));
        let given = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let decoded = decode(initial);
                let mut parts = decoded.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            "LOGIN" => {
                let mut answers = Vec::new();
                for prompt in [&login.prompts.0, &login.prompts.1] {
                    stream.write_all(format!("334 {}\r\n", encode(prompt)).as_bytes()).await?;
                    stream.flush().await?;
                    answers.push(decode(&read_line(stream).await?.unwrap_or_default()));
                }
                (answers.remove(0), answers.remove(0))
            }
            _ => return self.answer(stream, Step::Auth, "504 5.5.4 unknown mechanism").await,
        };
        if given != (login.user.clone(), login.password) {
            return self.answer(stream, Step::Auth, "535 5.7.8 authentication failed").await;
        }
        self.user = Some(login.user);
        self.answer(stream, Step::Auth, "235 2.7.0 welcome").await
    }

    async fn sender(&mut self, stream: &mut (impl AsyncWrite + Unpin), path: &str) -> io::Result<Next> {
        let clear = matches!(self.options.protection, Protection::Starttls(_)) && !self.tls;
        if clear {
            return self.answer(stream, Step::Sender, "530 5.7.0 must issue a STARTTLS command first").await;
        }
        if self.options.login.is_some() && self.user.is_none() {
            return self.answer(stream, Step::Sender, "530 5.7.0 authentication required").await;
        }
        (self.from, self.to) = (Some(address(path)), Vec::new());
        self.answer(stream, Step::Sender, "250 2.1.0 ok").await
    }

    async fn recipient(&mut self, stream: &mut (impl AsyncWrite + Unpin), path: &str) -> io::Result<Next> {
        if self.from.is_none() {
            return self.answer(stream, Step::Recipient, "503 5.5.1 MAIL FROM first").await;
        }
        let recipient = address(path);
        if self.options.greylist && self.kept.lock().unwrap().greylisted.insert(recipient.clone()) {
            return self.answer(stream, Step::Recipient, "451 4.7.1 greylisted, come back later").await;
        }
        self.to.push(recipient);
        let faults = || self.kept.lock().unwrap().faults.clone();
        let refuses = faults().iter().any(|fault| {
            fault.step == Step::Recipient
                && fault.times > 0
                && matches!(&fault.how, Break::Answer(_))
                && fault.recipient.as_ref().is_none_or(|only| self.to.contains(only))
        });
        let next = self.answer(stream, Step::Recipient, "250 2.1.5 ok").await?;
        if refuses {
            self.to.pop();
        }
        Ok(next)
    }

    async fn data(
        &mut self,
        stream: &mut (impl AsyncRead + AsyncWrite + AsyncBufReadExt + Unpin),
    ) -> io::Result<Next> {
        if self.to.is_empty() {
            return self.answer(stream, Step::Data, "503 5.5.1 RCPT TO first").await;
        }
        if self.kept.lock().unwrap().faults.iter().any(|fault| fault.step == Step::Data && fault.times > 0) {
            return self.answer(stream, Step::Data, "354 end with a dot").await;
        }
        stream.write_all(b"354 end with a dot\r\n").await?;
        stream.flush().await?;
        let mut text = String::new();
        loop {
            let Some(line) = read_line(stream).await? else { return Ok(Next::End) };
            if line == "." {
                break;
            }
            // A dot at the beginning was doubled (RFC 5321, section 4.5.2).
            text.push_str(line.strip_prefix('.').unwrap_or(&line));
            text.push('\n');
            if text.len() > MAIL_BYTES_MAX {
                return Ok(Next::End);
            }
        }
        let received = Received {
            hello: self.hello.clone(),
            user: self.user.clone(),
            tls: self.tls,
            from: self.from.take().unwrap_or_default(),
            to: self.to.clone(),
            text,
        };
        let fault = self.fault(Step::Content);
        if matches!(fault, None | Some(Break::TakeAndHangUp)) {
            self.keep(received)?;
        }
        let next = match fault {
            None => {
                stream.write_all(b"250 2.0.0 taken\r\n").await?;
                Next::Go
            }
            Some(Break::Answer(text)) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                if text.starts_with("421") { Next::End } else { Next::Go }
            }
            Some(Break::Stall) => std::future::pending().await,
            Some(Break::HangUp | Break::TakeAndHangUp) => Next::End,
        };
        stream.flush().await?;
        self.to.clear();
        Ok(next)
    }

    fn keep(&self, received: Received) -> io::Result<()> {
        let mut kept = self.kept.lock().unwrap();
        if let Some(folder) = &self.options.folder {
            let path = folder.join(format!("mail-{:04}.eml", kept.mails.len() + 1));
            std::fs::write(path, &received.text)?;
        }
        if self.options.print {
            let line = "─".repeat(72);
            println!("{line}\nto {}\n{}\n{line}", received.to.join(", "), received.text.trim_end());
        }
        kept.mails.push(received);
        Ok(())
    }
}

async fn read_line(stream: &mut (impl AsyncBufReadExt + AsyncRead + Unpin)) -> io::Result<Option<String>> {
    use tokio::io::AsyncReadExt;
    let mut line = Vec::new();
    let read = (&mut *stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&line);
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// `<a@b> BODY=8BITMIME` to `a@b`.
fn address(path: &str) -> String {
    let path = path.trim();
    let inner = path.strip_prefix('<').and_then(|rest| rest.split_once('>')).map(|(inner, _)| inner);
    inner.unwrap_or(path).to_owned()
}

fn encode(text: &str) -> String {
    data_encoding::BASE64.encode(text.as_bytes())
}

fn decode(text: &str) -> String {
    let bytes = data_encoding::BASE64.decode(text.trim().as_bytes()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
