//! Passwords as they are kept: argon2id (RFC 9106), in the PHC string format. Hashing takes memory and time on purpose, so it
//! runs beside the runtime, few at once; whoever comes when many wait is sent away. Knows no user.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use chom_protocol::UserName;
use chom_protocol::api::users::{PASSWORD_BYTES_MAX, PASSWORD_CHARACTERS_MIN, Password};
use chom_supervise::aside;
use data_encoding::BASE64_NOPAD;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::fleet::FleetError;

/// Memory, passes and lanes of a hash: the first choice of OWASP's cheat sheet on storing passwords for argon2id, and above
/// the least that RFC 9106 (section 4) leaves sensible; some 20 ms of one core.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;
/// What a stored hash may ask of this machine, should somebody have brought it from elsewhere: as much as four of ours.
const MEMORY_KIB_MAX: u32 = 4 * MEMORY_KIB;
const PASSES_MAX: u32 = 8;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
/// Hashed at once: together 38 MiB, and no more than two cores, however many sign in.
const HASHED_AT_ONCE_MAX: usize = 2;
/// Those who wait for their turn: some two thirds of a second of work.
const WAITING_MAX: usize = 64;

/// Why a password was neither hashed nor checked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PasswordError {
    /// Too many at once.
    #[error("too many passwords are being checked at once; try again in a moment")]
    Busy,
    /// No randomness.
    #[error("the system gives no random bytes for a password")]
    Random,
    /// What is stored is no hash of ours.
    #[error("the stored hash of a password cannot be used: {0}")]
    Stored(String),
    /// The hash function.
    #[error("a password cannot be hashed: {0}")]
    Hash(argon2::Error),
}

impl From<PasswordError> for FleetError {
    fn from(error: PasswordError) -> Self {
        Self::internal(error.to_string())
    }
}

/// A hash as it is stored; it is never printed.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PasswordHash(String);

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("PasswordHash(…)")
    }
}

impl PasswordHash {
    /// Hashes a password with a salt of its own. Takes its time: for whoever has nothing else to do on this thread.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn of(password: &Password) -> Result<Self, PasswordError> {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).map_err(|_| PasswordError::Random)?;
        let params = Params::new(MEMORY_KIB, PASSES, LANES, Some(HASH_BYTES)).map_err(PasswordError::Hash)?;
        let hash = hashed(password, &salt, params)?;
        Ok(Self::written(&salt, hash.as_slice()))
    }

    /// A hash that no password has: made of random bytes alone, so that checking against it is the same work.
    fn of_nobody() -> Result<Self, PasswordError> {
        let mut bytes = [0; SALT_BYTES + HASH_BYTES];
        SystemRandom::new().fill(&mut bytes).map_err(|_| PasswordError::Random)?;
        let (salt, hash) = bytes.split_at(SALT_BYTES);
        Ok(Self::written(salt, hash))
    }

    /// In the PHC string format.
    fn written(salt: &[u8], hash: &[u8]) -> Self {
        let (salt, hash) = (BASE64_NOPAD.encode(salt), BASE64_NOPAD.encode(hash));
        Self(format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${salt}${hash}"))
    }

    /// Whether it is the hash of a password.
    fn is_of(&self, password: &Password) -> Result<bool, PasswordError> {
        let (params, salt, hash) = self.read().ok_or_else(|| {
            PasswordError::Stored("it is no argon2id hash of parameters that are allowed".to_owned())
        })?;
        let given = hashed(password, &salt, params)?;
        Ok(given.as_slice().ct_eq(&hash).into())
    }

    fn read(&self) -> Option<(Params, Vec<u8>, Vec<u8>)> {
        let rest = self.0.strip_prefix("$argon2id$v=19$")?;
        let mut parts = rest.split('$');
        let (costs, salt, hash) = (parts.next()?, parts.next()?, parts.next()?);
        let mut costs = costs.split(',');
        let mut cost = |name: &str| costs.next()?.strip_prefix(name)?.parse::<u32>().ok();
        let (memory, passes, lanes) = (cost("m=")?, cost("t=")?, cost("p=")?);
        let salt = BASE64_NOPAD.decode(salt.as_bytes()).ok()?;
        let hash = BASE64_NOPAD.decode(hash.as_bytes()).ok()?;
        let is_ours = memory <= MEMORY_KIB_MAX && passes <= PASSES_MAX && hash.len() == HASH_BYTES;
        let params = Params::new(memory, passes, lanes, Some(HASH_BYTES)).ok().filter(|_| is_ours)?;
        Some((params, salt, hash))
    }
}

fn hashed(
    password: &Password,
    salt: &[u8],
    params: Params,
) -> Result<Zeroizing<[u8; HASH_BYTES]>, PasswordError> {
    let mut hash = Zeroizing::new([0; HASH_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(password.0.as_bytes(), salt, hash.as_mut_slice())
        .map_err(PasswordError::Hash)?;
    Ok(hash)
}

/// Refuses a password that is too short, too long, or the user's own name.
///
/// # Errors
/// With what to do instead.
pub(crate) fn check_rules(
    location: &'static str,
    password: &Password,
    user: &UserName,
) -> Result<(), FleetError> {
    let characters = password.0.chars().count();
    if characters < PASSWORD_CHARACTERS_MIN || password.0.len() > PASSWORD_BYTES_MAX {
        let detail = format!(
            "this password has {characters} characters; give at least {PASSWORD_CHARACTERS_MIN}, such as four words, and no more than {PASSWORD_BYTES_MAX} bytes"
        );
        return Err(FleetError::invalid(location, detail));
    }
    if password.0.to_ascii_lowercase() == user.as_str() {
        return Err(FleetError::invalid(location, "this password is the user's name; choose another"));
    }
    Ok(())
}

/// Hashes and checks, few at once.
#[derive(Clone)]
pub(crate) struct Passwords {
    room: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        let of = |permits| Arc::new(Semaphore::new(permits));
        Self { room: of(HASHED_AT_ONCE_MAX), waiting: of(WAITING_MAX + HASHED_AT_ONCE_MAX) }
    }
}

impl Passwords {
    /// Hashes a password.
    ///
    /// # Errors
    /// When too many wait, or there is no randomness.
    pub(crate) async fn hash(&self, password: Password) -> Result<PasswordHash, PasswordError> {
        self.in_turn(move || PasswordHash::of(&password)).await
    }

    /// Whether a password is the right one. Without a hash it is not, after the same work.
    ///
    /// # Errors
    /// When too many wait, or what is stored is no hash.
    pub(crate) async fn check(
        &self,
        password: Password,
        against: Option<PasswordHash>,
    ) -> Result<bool, PasswordError> {
        self.in_turn(move || against.map_or_else(PasswordHash::of_nobody, Ok)?.is_of(&password)).await
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| PasswordError::Busy)?;
        aside(move || {
            // Until it is done, also when whoever asked has gone: its memory is taken all the while.
            let _held = (place, room);
            work()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_no_other_is() {
        let passwords = Passwords::default();
        let kept = passwords.hash(password("correct horse")).await.unwrap();
        assert!(kept.0.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", kept.0);
        assert!(passwords.check(password("correct horse"), Some(kept.clone())).await.unwrap());
        assert!(!passwords.check(password("correct horsf"), Some(kept.clone())).await.unwrap());
        assert!(!passwords.check(password("correct horse"), None).await.unwrap(), "nobody's");
        let again = passwords.hash(password("correct horse")).await.unwrap();
        assert_ne!(kept, again, "each has a salt of its own");
    }

    /// From the reference implementation: `echo -n password | argon2 somesalt -id -t 2 -m 16 -p 1`, of 64 MiB.
    #[test]
    fn a_hash_of_the_reference_implementation_is_read() {
        let kept = PasswordHash(
            "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"
                .to_owned(),
        );
        assert!(kept.is_of(&password("password")).unwrap());
        assert!(!kept.is_of(&password("passwort")).unwrap());
    }

    #[test]
    fn a_hash_that_would_take_the_machine_is_refused() {
        for text in [
            "",
            "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=99999999,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=19456,t=2000,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$CTFh",
        ] {
            assert!(PasswordHash(text.to_owned()).is_of(&password("x")).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_flood_is_sent_away_instead_of_taking_the_memory() {
        let passwords = Passwords::default();
        let room = passwords.room.clone().acquire_many_owned(2).await.unwrap();
        let mut waiting: Vec<_> = (0..WAITING_MAX + HASHED_AT_ONCE_MAX)
            .map(|_| Box::pin(passwords.check(password("x"), None)))
            .collect();
        for each in &mut waiting {
            assert!(futures_util::poll!(each.as_mut()).is_pending());
        }
        assert!(matches!(passwords.hash(password("y")).await, Err(PasswordError::Busy)));
        drop((waiting, room));
        assert!(passwords.hash(password("y")).await.is_ok(), "there is room again");
    }

    #[test]
    fn short_and_obvious_passwords_are_refused_with_what_to_do() {
        let user: UserName = "anna.maria@example.com".parse().unwrap();
        for bad in ["elevenchars", "Anna.Maria@Example.com", &"x".repeat(513)] {
            assert!(check_rules("/password", &password(bad), &user).is_err(), "{bad}");
        }
        assert!(check_rules("/password", &password("twelve chars"), &user).is_ok());
    }

    #[test]
    fn neither_a_password_nor_its_hash_is_printed() {
        let shown = format!("{:?} {:?}", password("hunter2"), PasswordHash("secret".to_owned()));
        assert_eq!(shown, "Password(…) PasswordHash(…)");
    }
}
