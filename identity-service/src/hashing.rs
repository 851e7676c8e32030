//! Hashing passwords: Argon2id on a bounded number of threads.
//!
//! One hash takes some 20 ms of one core and 19 MiB by design. So at most as many run at once as there are
//! threads for them, a bounded number waits, and further ones are refused at once: an attacker who sends
//! guesses takes neither the memory nor all other calls' time. Nor all of the places: of those one account has a quarter,
//! and one address half, however right their passwords are; and who signs up has half, from one address a quarter.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use service_core::secret::Secret;
use service_core::shares::{Share, Shares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, oneshot};

use crate::domain::Password;
use crate::sources::Entropy;
use crate::store::FailureKey;

/// What a hash costs. It may grow: older hashes are made anew when their user signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB; at least 19456 (19 MiB).
    pub memory_kib: u32,
    /// Passes over the memory; at least 2.
    pub passes: u32,
    /// Lanes; at least 1. They are computed one after the other.
    pub lanes: u32,
}

impl HashCost {
    /// 19 MiB, 2 passes, 1 lane: what OWASP recommends as the least.
    pub const LEAST: Self = Self { memory_kib: 19_456, passes: 2, lanes: 1 };
}

/// How many hashes run and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashLimits {
    /// How many run at once; at least 1.
    pub threads: usize,
    /// How many more wait for one of the threads.
    pub waiting: usize,
}

/// Why there is no hash, or no verdict.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// As many are waiting as may wait.
    #[error("too many passwords are waiting to be hashed")]
    Overloaded,
    /// The parameters or the stored hash are wrong, or there is no memory or randomness.
    #[error("the password could not be hashed: {0}")]
    Failed(String),
}

/// Hashes and verifies passwords.
pub struct PasswordHasher {
    argon2: Argon2<'static>,
    entropy: Arc<dyn Entropy>,
    /// A hash of 32 random bytes, which nobody's password is: to spend the time on that a known e-mail would
    /// cost.
    decoy: String,
    /// One permit for each hash that runs or waits.
    places: Arc<Semaphore>,
    /// One permit for each of those that is for somebody who signs up: they take half of the places at most, so that who is
    /// known already gets in.
    newcomers: Arc<Semaphore>,
    /// How many of these each address has. Apart from the others: who signs up keeps nobody there from signing in.
    newcomers_shares: Shares<FailureKey>,
    /// How many of the places each account and each address has.
    shares: Shares<FailureKey>,
    /// How many places there are.
    size: usize,
    /// One permit for each hash that runs.
    threads: Arc<Semaphore>,
    /// What the threads do next. They end with it.
    jobs: mpsc::Sender<Job>,
}

/// For whom a password is hashed.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// Somebody who signs up.
    Newcomer,
    /// Somebody who has an account, or says so.
    Known,
}

/// Whose attempts are refused, in the metrics, where there are places: one account or address has all that it may have.
const SHARE: &str = "share";

impl Whose {
    fn word(self) -> &'static str {
        match self {
            Self::Newcomer => "newcomer",
            Self::Known => "known",
        }
    }
}

/// One hash, in the memory of the thread that makes it.
type Job = Box<dyn FnOnce(&mut Vec<Block>) + Send>;

impl PasswordHasher {
    /// Makes the decoy, and so takes the time of one hash.
    ///
    /// # Errors
    /// [`HashError::Failed`] if Argon2 does not take the parameters, or there is no randomness.
    pub fn new(cost: HashCost, limits: HashLimits, entropy: Arc<dyn Entropy>) -> Result<Self, HashError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None).map_err(failed)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut nobodys = [0; 32];
        entropy.fill(&mut nobodys).map_err(failed)?;
        // Shown from the start on: an alert on a rise needs the value before it.
        for whose in [Whose::Newcomer.word(), Whose::Known.word(), SHARE] {
            metrics::counter!("password_hashes_refused_total", "whose" => whose).increment(0);
        }
        let decoy = hash(&argon2, entropy.as_ref(), &nobodys, &mut Vec::new())?;
        let places = limits.threads.saturating_add(limits.waiting);
        Ok(Self {
            argon2,
            entropy,
            decoy,
            places: Arc::new(Semaphore::new(places)),
            newcomers: Arc::new(Semaphore::new(places.div_ceil(2))),
            newcomers_shares: Shares::default(),
            shares: Shares::default(),
            size: places,
            threads: Arc::new(Semaphore::new(limits.threads)),
            jobs: start_threads(limits.threads)?,
        })
    }

    /// The PHC string of a new hash of `password`, with a salt of its own.
    ///
    /// # Errors
    /// [`HashError`].
    pub async fn hash(&self, password: Password) -> Result<Secret, HashError> {
        self.hash_for(Whose::Known, password, ()).await
    }

    /// The same for somebody who has shown to be this account's owner, in a place of the share of this account and this address.
    ///
    /// # Errors
    /// [`HashError`]; overloaded already if the share is taken.
    pub async fn hash_known(
        &self,
        account: FailureKey,
        address: Option<FailureKey>,
        password: Password,
    ) -> Result<Secret, HashError> {
        self.hash_for(Whose::Known, password, self.shares_of(account, address)?).await
    }

    /// The same for somebody who signs up.
    ///
    /// # Errors
    /// [`HashError`]; overloaded already if half of the places are taken by others who sign up, or a quarter by those from this
    /// address.
    pub async fn hash_newcomers(
        &self,
        address: Option<FailureKey>,
        password: Password,
    ) -> Result<Secret, HashError> {
        let place = place(&self.newcomers, Whose::Newcomer)?;
        let of_address = |address| {
            let share = self.newcomers_shares.take(address, self.size.div_ceil(4));
            share.ok_or_else(|| refused(SHARE))
        };
        let share = address.map(of_address).transpose()?;
        self.hash_for(Whose::Newcomer, password, (place, share)).await
    }

    /// Keeps `held` as long as the work is there, whoever is still interested.
    async fn hash_for(
        &self,
        whose: Whose,
        password: Password,
        held: impl Send + 'static,
    ) -> Result<Secret, HashError> {
        let (argon2, entropy) = (self.argon2.clone(), self.entropy.clone());
        let work = move |memory: &mut _| {
            let _held = held;
            hash(&argon2, entropy.as_ref(), password.as_bytes(), memory).map(Secret::new)
        };
        self.run("hash", whose, work).await
    }

    /// Begins to find out whether `password` is the one that `stored` was made of, in a place of the share of this account
    /// and this address. Without a stored hash it is not, after the same time.
    ///
    /// # Errors
    /// [`HashError`]; overloaded already if the share is taken.
    pub async fn verify(
        &self,
        account: FailureKey,
        address: Option<FailureKey>,
        password: Password,
        stored: Option<&str>,
    ) -> Result<Work<bool>, HashError> {
        let shares = self.shares_of(account, address)?;
        let stored = stored.unwrap_or(&self.decoy).to_owned();
        self.begin("verify", Whose::Known, move |memory| {
            let _shares = shares;
            // With the parameters of the stored hash.
            let parsed = PasswordHash::new(&stored).map_err(failed)?;
            let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else {
                return Err(failed("the stored hash lacks its salt or itself"));
            };
            let algorithm = Algorithm::try_from(parsed.algorithm.as_str()).map_err(failed)?;
            let version = parsed.version.map_or(Ok(Version::default()), Version::try_from).map_err(failed)?;
            let params = Params::try_from(&parsed).map_err(failed)?;
            let argon2 = Argon2::new(algorithm, version, params);
            // Outputs are compared in constant time.
            Ok(output(&argon2, password.as_bytes(), &salt, memory)? == expected)
        })
        .await
    }

    /// A place for an attempt on this account from this address, in the share of each.
    fn shares_of(
        &self,
        account: FailureKey,
        address: Option<FailureKey>,
    ) -> Result<(Share<FailureKey>, Option<Share<FailureKey>>), HashError> {
        let shares = || {
            let account = self.shares.take(account, self.size.div_ceil(4))?;
            let Some(address) = address else { return Some((account, None)) };
            Some((account, Some(self.shares.take(address, self.size.div_ceil(2))?)))
        };
        shares().ok_or_else(|| refused(SHARE))
    }

    /// Whether `stored` was made at a lower cost than new hashes are, or is not even Argon2id.
    #[must_use]
    pub fn is_outdated(&self, stored: &str) -> bool {
        let Ok(parsed) = PasswordHash::new(stored) else { return true };
        let Ok(params) = Params::try_from(&parsed) else { return true };
        let now = self.argon2.params();
        parsed.algorithm != ARGON2ID_IDENT
            || params.m_cost() < now.m_cost()
            || params.t_cost() < now.t_cost()
            || params.p_cost() < now.p_cost()
    }

    /// Runs `work` on one of the threads for it, or refuses it.
    async fn run<T: Send + 'static>(
        &self,
        kind: &'static str,
        whose: Whose,
        work: impl FnOnce(&mut Vec<Block>) -> Result<T, HashError> + Send + 'static,
    ) -> Result<T, HashError> {
        self.begin(kind, whose, work).await?.done().await
    }

    /// Has one of the threads begin `work`, or refuses it. A caller who goes away gives up a place in the
    /// queue at once; once the work runs it keeps its permits until it is done, so that the bounds hold
    /// whoever is still interested.
    async fn begin<T: Send + 'static>(
        &self,
        kind: &'static str,
        whose: Whose,
        work: impl FnOnce(&mut Vec<Block>) -> Result<T, HashError> + Send + 'static,
    ) -> Result<Work<T>, HashError> {
        let place = place(&self.places, whose)?;
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(failed)?;
        let permits: (OwnedSemaphorePermit, OwnedSemaphorePermit) = (place, thread);
        let (answer, answered) = oneshot::channel();
        let job = move |memory: &mut Vec<Block>| {
            let began = Instant::now();
            let result = work(memory);
            metrics::histogram!("password_hash_duration_seconds", "kind" => kind)
                .record(began.elapsed().as_secs_f64());
            drop(permits);
            // If the caller went away, nobody misses it.
            let _ = answer.send(result);
        };
        self.jobs.send(Box::new(job)).map_err(failed)?;
        Ok(Work(answered))
    }
}

/// Work that has begun, and goes on whoever is still interested.
#[derive(Debug)]
pub struct Work<T>(oneshot::Receiver<Result<T, HashError>>);

impl<T> Work<T> {
    /// What came of it.
    ///
    /// # Errors
    /// [`HashError::Failed`].
    pub async fn done(self) -> Result<T, HashError> {
        self.0.await.map_err(failed)?
    }
}

/// Takes one of the places, if one is free.
fn place(places: &Arc<Semaphore>, whose: Whose) -> Result<OwnedSemaphorePermit, HashError> {
    Arc::clone(places).try_acquire_owned().map_err(|error| match error {
        TryAcquireError::NoPermits => refused(whose.word()),
        TryAcquireError::Closed => failed(error),
    })
}

fn refused(whose: &'static str) -> HashError {
    metrics::counter!("password_hashes_refused_total", "whose" => whose).increment(1);
    HashError::Overloaded
}

impl std::fmt::Debug for PasswordHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordHasher").field("params", self.argon2.params()).finish_non_exhaustive()
    }
}

/// Threads of their own for hashing, each with memory of its own that it uses again and again. Memory that is asked for
/// and given back for each hash stays with the allocator, many times over: a flood of guesses took that of dozens of
/// hashes.
fn start_threads(threads: usize) -> Result<mpsc::Sender<Job>, HashError> {
    let (jobs, queue) = mpsc::channel::<Job>();
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..threads {
        let queue = queue.clone();
        let next = move || queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok();
        let work = move || {
            let mut memory = Vec::new();
            while let Some(job) = next() {
                // A panic is the end of one hash, whose caller is told, and not of the thread.
                let _ = catch_unwind(AssertUnwindSafe(|| job(&mut memory)));
            }
        };
        std::thread::Builder::new().name("hashing".into()).spawn(work).map_err(failed)?;
    }
    Ok(jobs)
}

fn hash(
    argon2: &Argon2<'_>,
    entropy: &dyn Entropy,
    password: &[u8],
    memory: &mut Vec<Block>,
) -> Result<String, HashError> {
    let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
    entropy.fill(&mut salt).map_err(failed)?;
    let hash = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params()).map_err(failed)?,
        salt: Some(Salt::new(&salt).map_err(failed)?),
        hash: Some(output(argon2, password, &salt, memory)?),
    };
    Ok(hash.to_string())
}

/// The hash itself. `memory` grows to what the parameters need and holds what the hash before left there, which
/// Argon2 overwrites before it reads.
fn output(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    memory: &mut Vec<Block>,
) -> Result<Output, HashError> {
    let params = argon2.params();
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::default());
    }
    let blocks = memory.get_mut(..params.block_count()).unwrap_or_default();
    let mut out = [0; Output::MAX_LENGTH];
    let length = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let out = out.get_mut(..length).ok_or_else(|| failed("the hash would be too long"))?;
    argon2.hash_password_into_with_memory(password, salt, out, blocks).map_err(failed)?;
    Output::new(out).map_err(failed)
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: impl ToString) -> HashError {
    HashError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::SystemEntropy;

    fn hasher(cost: HashCost, threads: usize, waiting: usize) -> PasswordHasher {
        PasswordHasher::new(cost, HashLimits { threads, waiting }, Arc::new(SystemEntropy)).unwrap()
    }

    fn password(value: &str) -> Password {
        Password::presented(value).unwrap()
    }

    async fn verifies(hasher: &PasswordHasher, value: &str, stored: Option<&str>) -> Result<bool, HashError> {
        hasher.verify(FailureKey::client("x"), None, password(value), stored).await?.done().await
    }

    #[tokio::test]
    async fn one_account_has_a_quarter_of_the_places_and_one_address_half_of_them() {
        // One takes long enough to be found under way.
        let hasher = hasher(HashCost { passes: 50, ..HashCost::LEAST }, 2, 14);
        let account = |n: usize| FailureKey::client(&n.to_string());
        let address = FailureKey::address(std::net::Ipv4Addr::LOCALHOST.into());
        let of_one: Vec<_> = (0..4).map(|_| hasher.shares_of(account(0), None).unwrap()).collect();
        assert!(matches!(hasher.shares_of(account(0), None), Err(HashError::Overloaded)));
        let another = hasher.hash_known(account(0), None, password("vjq7 x2wz")).await;
        assert!(matches!(another, Err(HashError::Overloaded)), "a new password as well");
        drop(of_one);
        let of_many: Vec<_> = (0..8).map(|n| hasher.shares_of(account(n), Some(address)).unwrap()).collect();
        assert!(matches!(hasher.shares_of(account(8), Some(address)), Err(HashError::Overloaded)));
        assert!(hasher.shares_of(account(8), None).is_ok(), "from elsewhere");
        drop(of_many);
        assert!(hasher.shares_of(account(8), Some(address)).is_ok());
        let verdict = hasher.verify(account(0), Some(address), password("vjq7 x2wz"), None).await.unwrap();
        assert!(hasher.shares.are_taken());
        verdict.done().await.unwrap();
        assert!(!hasher.shares.are_taken(), "given back by what has ended");
    }

    #[tokio::test]
    async fn a_password_verifies_against_its_own_hash_and_no_other() {
        let hasher = hasher(HashCost::LEAST, 2, 8);
        let stored = hasher.hash(password("vjq7 x2wz")).await.unwrap();
        assert!(stored.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{}", stored.expose());
        assert!(verifies(&hasher, "vjq7 x2wz", Some(stored.expose())).await.unwrap());
        assert!(!verifies(&hasher, "vjq7 x2w", Some(stored.expose())).await.unwrap());
        assert_ne!(hasher.hash(password("vjq7 x2wz")).await.unwrap(), stored, "each hash has its own salt");
    }

    #[tokio::test]
    async fn nobody_matches_the_decoy() {
        let hasher = hasher(HashCost::LEAST, 2, 8);
        assert!(!verifies(&hasher, "vjq7 x2wz", None).await.unwrap());
        assert!(verifies(&hasher, "x", Some("not a hash")).await.is_err());
    }

    #[test]
    fn a_hash_is_outdated_when_any_parameter_grew() {
        let cheap = hasher(HashCost::LEAST, 1, 0);
        let stored = hash(&cheap.argon2, &SystemEntropy, b"vjq7 x2wz", &mut Vec::new()).unwrap();
        assert!(!cheap.is_outdated(&stored));
        for dear in [
            HashCost { memory_kib: 19_457, ..HashCost::LEAST },
            HashCost { passes: 3, ..HashCost::LEAST },
            HashCost { lanes: 2, ..HashCost::LEAST },
        ] {
            let dear = hasher(dear, 1, 0);
            assert!(dear.is_outdated(&stored));
            let new = hash(&dear.argon2, &SystemEntropy, b"vjq7 x2wz", &mut Vec::new()).unwrap();
            assert!(!cheap.is_outdated(&new), "a dearer hash is never replaced by a cheaper one");
        }
        assert!(cheap.is_outdated(&stored.replace("argon2id", "argon2i")));
        assert!(cheap.is_outdated("nonsense"));
    }

    #[test]
    fn memory_that_was_used_before_makes_the_same_hash() {
        let argon2 = |passes| {
            let params = Params::new(HashCost::LEAST.memory_kib, passes, 1, None).unwrap();
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        };
        let (mut used, salt) = (Vec::new(), [7; 16]);
        output(&argon2(3), b"another password", &[9; 16], &mut used).unwrap();
        let again = output(&argon2(2), b"vjq7 x2wz", &salt, &mut used).unwrap();
        let mut reference = [0; 32];
        argon2(2).hash_password_into(b"vjq7 x2wz", &salt, &mut reference).unwrap();
        assert_eq!(again.as_bytes(), reference);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_finds_neither_a_thread_nor_a_place_in_the_queue_is_refused() {
        let hasher = Arc::new(hasher(HashCost::LEAST, 1, 2));
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (started, begun) = tokio::sync::oneshot::channel();
        let running = tokio::spawn({
            let hasher = hasher.clone();
            async move {
                hasher
                    .run("test", Whose::Known, move |_| {
                        let _ = started.send(());
                        gate.recv().map_err(failed)
                    })
                    .await
            }
        });
        begun.await.unwrap();
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let hasher = hasher.clone();
                tokio::spawn(async move { hasher.hash(password("vjq7 x2wz")).await })
            })
            .collect();
        while hasher.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = hasher.hash(password("vjq7 x2wz")).await;
        assert!(matches!(refused, Err(HashError::Overloaded)), "{refused:?}");

        waiting[0].abort();
        while hasher.places.available_permits() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hasher.places.available_permits(), 1, "who goes away makes room");
        running.abort();
        assert_eq!(hasher.threads.available_permits(), 0, "what runs keeps its thread, whoever listens");

        let first = hasher.newcomers.clone().try_acquire_many_owned(2).expect("half of three, rounded up");
        let refused = hasher.hash_newcomers(None, password("vjq7 x2wz")).await;
        assert!(
            matches!(refused, Err(HashError::Overloaded)),
            "the place that is left is not for who signs up"
        );
        drop(first);

        release.send(()).unwrap();
        let [_, second] = <[_; 2]>::try_from(waiting).unwrap();
        assert!(second.await.unwrap().is_ok());
    }
}
