//! Frames in, frames out, in order, until the agent goes. Knows nothing of libvirt.

use std::io::{self, Read, Write};

use chom_protocol::helper::{HELPER_VERSION, HelperReply, HelperRequest};
use chom_protocol::link::codec::{self, DecodeError, EncodeError, HEADER_BYTES};

/// Why the helper cannot go on. Each of these ends it: the agent starts another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    /// The socket failed.
    #[error("cannot read from or write to the agent; standard input must be the socket that the agent gave")]
    Socket(#[source] io::Error),
    /// The agent sent something else.
    #[error("the agent sent what is no request; agent and helper must be of one release")]
    Decode(#[source] DecodeError),
    /// A reply that no frame can carry.
    #[error("a reply cannot be sent")]
    Encode(#[source] EncodeError),
}

/// Answers requests until the other end closes. The first must be a `Hello` that names exactly our version.
pub(crate) fn serve<S>(
    stream: S,
    answer: &mut dyn FnMut(HelperRequest) -> HelperReply,
) -> Result<(), ServeError>
where
    S: Read + Write,
{
    let mut stream = stream;
    let mut greeted = false;
    while let Some(request) = read(&mut stream)? {
        let reply = match request {
            HelperRequest::Hello { version } if version == HELPER_VERSION => {
                greeted = true;
                HelperReply::Ready { version: HELPER_VERSION.to_owned() }
            }
            HelperRequest::Hello { version } => HelperReply::Failed {
                problem: format!(
                    "the agent is of version {version}, its libvirt helper of {HELPER_VERSION}: install the packages \
                     chom-agent and chom-agent-libvirt of one release"
                ),
                retryable: false,
            },
            _ if !greeted => HelperReply::Failed {
                problem: "the first request must be Hello".to_owned(),
                retryable: false,
            },
            other => answer(other),
        };
        write(&mut stream, &reply)?;
    }
    Ok(())
}

fn read(stream: &mut impl Read) -> Result<Option<HelperRequest>, ServeError> {
    let mut header = [0; HEADER_BYTES];
    // A close between frames is how the agent says goodbye; one inside a frame is an error.
    let first = loop {
        match stream.read(&mut header) {
            Ok(count) => break count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(ServeError::Socket(error)),
        }
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[first..]).map_err(ServeError::Socket)?;
    let length = codec::payload_length::<HelperRequest>(header).map_err(ServeError::Decode)?;
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).map_err(ServeError::Socket)?;
    codec::decode(&payload).map(Some).map_err(ServeError::Decode)
}

fn write(stream: &mut impl Write, reply: &HelperReply) -> Result<(), ServeError> {
    let frame = match codec::encode(reply) {
        Ok(frame) => frame,
        // Too much to say in one frame is an answer too: the agent must not wait for one that never comes.
        Err(error @ EncodeError::Large { .. }) => {
            let problem = format!("the answer is too large for one frame: {error}");
            codec::encode(&HelperReply::Failed { problem, retryable: false }).map_err(ServeError::Encode)?
        }
        Err(error @ EncodeError::Value(_)) => return Err(ServeError::Encode(error)),
    };
    stream.write_all(&frame).and_then(|()| stream.flush()).map_err(ServeError::Socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the agent wrote, and what it reads back.
    struct Pair(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Pair {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Pair {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn hello(version: &str) -> HelperRequest {
        HelperRequest::Hello { version: version.to_owned() }
    }

    fn talk(bytes: Vec<u8>) -> (Vec<HelperReply>, Result<(), ServeError>) {
        let mut pair = Pair(io::Cursor::new(bytes), Vec::new());
        let end = serve(&mut pair, &mut |_| HelperReply::Done);
        let mut replies = Vec::new();
        let mut rest = pair.1.as_slice();
        while let Some((header, tail)) = rest.split_first_chunk::<HEADER_BYTES>() {
            let length = codec::payload_length::<HelperReply>(*header).unwrap();
            replies.push(codec::decode(&tail[..length]).unwrap());
            rest = &tail[length..];
        }
        (replies, end)
    }

    fn frames(requests: &[HelperRequest]) -> Vec<u8> {
        requests.iter().flat_map(|request| codec::encode(request).unwrap()).collect()
    }

    #[test]
    fn requests_are_answered_in_order_until_the_agent_goes() {
        let (replies, end) = talk(frames(&[hello(HELPER_VERSION), HelperRequest::Observe]));
        assert!(end.is_ok());
        assert_eq!(replies, [HelperReply::Ready { version: HELPER_VERSION.to_owned() }, HelperReply::Done]);
    }

    #[test]
    fn another_version_and_a_missing_hello_are_refused() {
        for requests in [vec![hello("0.0.0"), HelperRequest::Observe], vec![HelperRequest::Observe]] {
            let (replies, _) = talk(frames(&requests));
            assert!(
                replies.iter().all(|r| matches!(r, HelperReply::Failed { retryable: false, .. })),
                "{replies:?}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_frame_end_the_helper_with_an_error() {
        let cut = frames(&[hello(HELPER_VERSION)]);
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), cut[..cut.len() - 1].to_vec()] {
            assert!(talk(bytes).1.is_err());
        }
    }
}
