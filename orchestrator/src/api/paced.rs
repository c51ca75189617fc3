//! Bodies of answers on their way to a client: in pieces, so that what is not sent yet is counted as not sent, and watched, so
//! that a client that reads nothing is noticed. A client that waits for us, as at an event stream, is not one of those.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Instant;

/// Largest piece: one TLS record, one frame of HTTP/2. The 64 streams of a connection buffer 1 MiB of them.
const PIECE_BYTES: usize = 16 * 1024;
/// A client that has taken nothing of an answer for so long, though there is more, is not reading.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(5);

/// The answers under way on one connection.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    begun: u64,
    /// Since when the client has been given a piece and not come for the next.
    unread_since: BTreeMap<u64, Instant>,
}

impl Answers {
    /// Watches a body; it holds `held` until its last byte has gone.
    pub(super) fn pace<H>(&self, body: Body, held: H) -> Paced<H> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.begun += 1;
        let number = open.begun;
        // A client of HTTP/2 that opens no window never comes for the first piece.
        open.unread_since.insert(number, Instant::now());
        drop(open);
        Paced { body, rest: Bytes::new(), number, answers: self.clone(), _held: held }
    }

    /// Waits until some answer has not been read for [`READ_DEADLINE`].
    pub(super) async fn unread(&self) {
        loop {
            tokio::time::sleep(LOOKED_AT_EVERY).await;
            let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if open.unread_since.values().any(|since| since.elapsed() >= READ_DEADLINE) {
                return;
            }
        }
    }

    fn note(&self, number: u64, unread_since: Option<Instant>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match unread_since {
            Some(since) => open.unread_since.insert(number, since),
            None => open.unread_since.remove(&number),
        };
    }
}

/// A body that is watched.
pub(super) struct Paced<H> {
    body: Body,
    rest: Bytes,
    number: u64,
    answers: Answers,
    _held: H,
}

impl<H: Unpin> HttpBody for Paced<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Pending => {
                    self.answers.note(self.number, None); // the client waits for us
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Poll::Ready(ended) => return Poll::Ready(ended),
            }
        }
        let end = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(end);
        self.answers.note(self.number, Some(Instant::now()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut whole = SizeHint::new();
        // In this order: the lower bound may not pass the upper.
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper.saturating_add(rest));
        }
        whole.set_lower(hint.lower().saturating_add(rest));
        whole
    }
}

impl<H> Drop for Paced<H> {
    fn drop(&mut self) {
        self.answers.note(self.number, None);
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::BodyExt;

    use super::*;

    /// Whether some answer counts as unread after a time a little longer than the deadline.
    async fn is_noticed(answers: &Answers) -> bool {
        tokio::time::timeout(READ_DEADLINE + 2 * LOOKED_AT_EVERY, answers.unread()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_is_noticed_at_the_beginning_and_in_the_middle() {
        let answers = Answers::default();
        let mut body = answers.pace(Body::from(vec![7; 200_000]), ());
        assert!(is_noticed(&answers).await, "it never came for the first piece");
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), PIECE_BYTES);
        assert!(is_noticed(&answers).await, "it never came for the second");
        drop(body);
        assert!(!is_noticed(&answers).await, "there is none left");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_on_slowly_and_one_that_waits_for_news_are_left_alone() {
        let answers = Answers::default();
        let mut slow = answers.pace(Body::from(vec![7; 200_000]), ());
        let mut waiting = answers.pace(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()), ());
        assert!(futures_util::poll!(waiting.frame()).is_pending());
        let mut read = 0;
        while let Some(piece) = slow.frame().await {
            read += piece.unwrap().into_data().unwrap().len();
            let soon = READ_DEADLINE - 2 * LOOKED_AT_EVERY;
            assert!(tokio::time::timeout(soon, answers.unread()).await.is_err());
        }
        assert_eq!(read, 200_000);
        drop(slow);
        assert!(!is_noticed(&answers).await);
    }

    #[tokio::test]
    async fn what_a_body_holds_is_let_go_with_it_and_its_length_is_known() {
        let held = Arc::new(());
        let body = Answers::default().pace(Body::from(vec![7; 200_000]), Arc::clone(&held));
        assert_eq!(body.size_hint().exact(), Some(200_000));
        assert_eq!(Arc::strong_count(&held), 2);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 200_000);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
