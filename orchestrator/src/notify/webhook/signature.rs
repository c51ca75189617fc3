//! ◆ How deliveries are signed: Standard Webhooks, symmetric (`v1`): HMAC-SHA256 over id, time and body.

use data_encoding::BASE64;
use ring::hmac;

/// What every secret begins with.
pub(crate) const SECRET_PREFIX: &str = "whsec_";
/// Length of a secret; the specification asks for 24 to 64 bytes.
pub(crate) const SECRET_BYTES: usize = 32;

/// A secret as people see it.
pub(crate) fn secret_text(secret: &[u8]) -> String {
    format!("{SECRET_PREFIX}{}", BASE64.encode(secret))
}

/// The header `webhook-signature`: one signature for each secret.
pub(crate) fn signature<'a>(
    secrets: impl IntoIterator<Item = &'a [u8]>,
    id: &str,
    unix_seconds: u64,
    body: &str,
) -> String {
    let content = format!("{id}.{unix_seconds}.{body}");
    let sign = |secret: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        format!("v1,{}", BASE64.encode(hmac::sign(&key, content.as_bytes()).as_ref()))
    };
    secrets.into_iter().map(sign).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Vec<u8> {
        BASE64.decode(text.strip_prefix(SECRET_PREFIX).unwrap().as_bytes()).unwrap()
    }

    /// The example of the specification, and the vector that its libraries are tested with.
    #[test]
    fn signatures_are_those_of_the_specification() {
        for (text, id, at, body, expected) in [
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
        ] {
            assert_eq!(signature([secret(text).as_slice()], id, at, body), expected, "{id}");
        }
    }

    #[test]
    fn a_replaced_secret_signs_too_and_a_secret_comes_back_from_its_text() {
        let (new, old) = ([1; SECRET_BYTES], [2; SECRET_BYTES]);
        assert_eq!(secret(&secret_text(&new)), new);
        let both = signature([new.as_slice(), &old], "a", 1, "{}");
        let one = |secret: &[u8]| signature([secret], "a", 1, "{}");
        assert_eq!(both, format!("{} {}", one(&new), one(&old)));
        assert_ne!(one(&new), one(&old));
    }
}
