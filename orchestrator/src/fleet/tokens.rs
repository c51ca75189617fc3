//! API tokens: random, shown once, stored as a hash.

use std::sync::Arc;

use chom_protocol::api::tokens::Role;
use chom_protocol::vps::Sha256;
use chom_protocol::{Name, TokenId, UnixMillis};
use ring::rand::SecureRandom;

use crate::fleet::rows::TokenRow;
use crate::fleet::state::State;
use crate::fleet::{Caller, ErrorKind, FleetError};

/// What every API token begins with, so that leaked ones can be searched for.
pub const TOKEN_PREFIX: &str = "chom-api-";
const TOKEN_BYTES: usize = 32;

/// Makes a token and the row that knows it. The text is shown once and kept nowhere.
///
/// # Errors
/// When the system gives no randomness.
pub fn create(
    name: Name,
    role: Role,
    id: TokenId,
    now: UnixMillis,
) -> Result<(String, TokenRow), ring::error::Unspecified> {
    let mut bytes = [0; TOKEN_BYTES];
    ring::rand::SystemRandom::new().fill(&mut bytes)?;
    let text = format!("{TOKEN_PREFIX}{}", data_encoding::BASE64URL_NOPAD.encode(&bytes));
    let hash = Sha256::of(text.as_bytes());
    let row = TokenRow { id, name, hash, created_at: now, expires_at: None, role };
    Ok((text, row))
}

/// Who holds a token. Found by its hash, so that no comparison tells by its time how much of a guess was right.
///
/// # Errors
/// When it is unknown or has expired.
pub fn authenticate(state: &State, token: &str, now: UnixMillis) -> Result<Caller, FleetError> {
    let refused = |detail: &str| FleetError::Refused {
        kind: ErrorKind::Unauthorised,
        detail: detail.to_owned(),
        location: Some("Authorization"),
    };
    let hash = Sha256::of(token.as_bytes());
    let Some(row) = state.tokens.values().map(|stored| &stored.row).find(|row| row.hash == hash) else {
        return Err(refused("this API token is unknown; use the one that `chom-orchestrator init` printed"));
    };
    if row.expires_at.is_some_and(|end| end <= now) {
        return Err(refused("this API token has expired; ask an admin for a new one"));
    }
    Ok(Caller { name: Arc::from(row.name.as_str()), token: row.id, role: row.role })
}
