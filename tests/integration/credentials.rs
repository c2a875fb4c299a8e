//! Credentials without HTTP: tokens, tickets and JSON Web Tokens, good and bad, and the access file that changes under them.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use segno::{
    auth::{
        self, Access, Identity, JwtRefused, NewToken, Presented, Reason, TicketError, TokenHash,
    },
    filter::Pattern,
    rights::{Grants, Quota, Right},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::jwt_issuer::{Signer, base64url, good_claims, jwks, now};

/// A folder with an access file.
struct Doors {
    folder: TempDir,
    access: Access,
}

impl Doors {
    fn new(access_file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::within(folder, access_file)
    }

    fn within(folder: TempDir, access_file: &str) -> Self {
        let path = folder.path().join("access.toml");
        fs::write(&path, access_file).unwrap();
        let access = Access::read(&path, folder.path().join("ticket-key")).unwrap();
        Self { folder, access }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("access.toml")
    }

    fn change(&self, access_file: &str) {
        fs::write(self.path(), access_file).unwrap();
        self.access.reload().unwrap();
    }

    async fn token(&self, token: &str) -> Result<Arc<Identity>, Reason> {
        self.access.identify(Presented::Token(token)).await
    }

    async fn ticket(&self, ticket: &str) -> Result<Arc<Identity>, Reason> {
        self.access.identify(Presented::Ticket(ticket)).await
    }

    async fn jwt_refused(&self, token: &str) -> JwtRefused {
        match self.token(token).await {
            Err(Reason::Jwt(refused)) => refused,
            other => panic!("{other:?} of {token}"),
        }
    }
}

fn entry(name: &str, token: &str, rights: &str) -> String {
    format!(
        "[[token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rights}\n",
        TokenHash::of(token)
    )
}

fn issuer(rest: &str) -> String {
    format!("[[issuer]]\nissuer = \"https://id.example\"\naudience = \"segno\"\n{rest}\n")
}

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts
        .iter()
        .map(|text| Pattern::new(text).unwrap())
        .collect()
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_token_is_good_while_it_is_in_the_file() {
    let token = segno::auth::new_token();
    let billing = entry("billing", &token, "publish = [\"orders.**\"]");
    let doors = Doors::new(&format!("[anonymous]\nfollow = [\"public\"]\n{billing}"));
    let caller = doors.token(&token).await.unwrap();
    assert_eq!(caller.name(), Some("billing"));
    assert!(caller.rights().may(Right::Publish, "orders.eu"));
    assert!(caller.rights().may(Right::Follow, "public"));
    let nobody = doors.access.identify(Presented::Nothing).await.unwrap();
    assert_eq!(nobody.name(), None);
    assert!(!nobody.rights().may(Right::Publish, "orders.eu"));

    assert_eq!(doors.token(&token[..69]).await, Err(Reason::UnknownToken));
    assert_eq!(doors.token("hunter2").await, Err(Reason::Form));
    assert_eq!(doors.token("").await, Err(Reason::Form));
    assert_eq!(doors.ticket(&token).await, Err(Reason::MisplacedToken));

    doors.change(&entry("billing", &token, "publish = [\"other\"]"));
    let renewed = doors.access.renew(&caller).unwrap();
    assert!(!renewed.rights().may(Right::Publish, "orders.eu"));
    doors.change(&entry("billing", &token, "expires = 2020-01-01T00:00:00Z"));
    let reason = doors.token(&token).await.unwrap_err();
    assert_eq!(reason.to_string(), "it expired at 2020-01-01T00:00:00.000Z");
    doors.change("");
    assert_eq!(doors.access.renew(&caller), Err(Reason::UnknownToken));
}

fn new_token(name: &str, token: &str, grants: Grants) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        hash: TokenHash::of(token),
        grants,
        quota: Quota::default(),
        expires: None,
    }
}

/// Each reads the file, and writes it with what it adds: none must write over what another has added.
#[test]
fn tokens_that_are_added_at_once_are_all_there() {
    let folder = tempfile::tempdir().unwrap();
    // By a link, too.
    let (path, link) = (
        folder.path().join("access.toml"),
        folder.path().join("link"),
    );
    std::os::unix::fs::symlink("access.toml", &link).unwrap();
    fs::write(&path, "# mine\n").unwrap();
    let go = std::sync::Barrier::new(8);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (path, link, go) = (&path, &link, &go);
            scope.spawn(move || {
                go.wait();
                for number in 0..10 {
                    let name = format!("t{thread}-{number}");
                    let new = new_token(&name, &name, Grants::default());
                    let at = if thread % 2 == 0 { path } else { link };
                    auth::add_token(at, &new).unwrap();
                }
                let first = format!("t{thread}-0").parse().unwrap();
                auth::remove_token(path, &first).unwrap();
            });
        }
    });
    let names: std::collections::BTreeSet<String> = auth::list_tokens(&path)
        .unwrap()
        .into_iter()
        .map(|token| token.name)
        .collect();
    assert_eq!(names.len(), 8 * 9, "{names:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);

    // A link that somebody put where it is written is not followed.
    let (victim, new) = (
        folder.path().join("victim"),
        folder.path().join("access.toml.new"),
    );
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, &new).unwrap();
    auth::add_token(&path, &new_token("last", "last", Grants::default())).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(path.symlink_metadata().unwrap().is_file());
    assert_eq!(auth::list_tokens(&path).unwrap().len(), 8 * 9 + 1);
}

#[tokio::test]
async fn tokens_are_added_and_removed_and_comments_stay() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.toml");
    let grants = |json: &str| serde_json::from_str::<Grants>(json).unwrap();
    let add = |name: &str, token: &str, json: &str| {
        auth::add_token(&path, &new_token(name, token, grants(json)))
    };
    add("first", "segno_1", r#"{"publish":["a"],"operate":true}"#).unwrap();
    let made = fs::read_to_string(&path).unwrap();
    assert!(made.starts_with("# Who may do what"), "{made}");
    assert!(made.trim_end().ends_with("operate = true"), "{made}");
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let own = format!("{made}\n# mine\n[anonymous]   # everybody\nfollow = [\"b\"]\n# the end\n");
    fs::write(&path, &own).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    add("second", "segno_2", r#"{"follow":["b","c.*"]}"#).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    for kept in [
        "# mine\n[anonymous]   # everybody\n",
        "# the end\n",
        "# Who may do what",
    ] {
        assert!(text.contains(kept), "{text}");
    }
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let names = || {
        let tokens = auth::list_tokens(&path).unwrap().into_iter();
        tokens.map(|token| token.name).collect::<Vec<_>>()
    };
    assert_eq!(names(), ["first", "second"]);
    let again = add("second", "segno_3", "{}").unwrap_err().to_string();
    assert!(
        again.contains("there is a token named second already"),
        "{again}"
    );
    let access = Access::read(&path, folder.path().join("key")).unwrap();
    let second = access.identify(Presented::Token("segno_2")).await.unwrap();
    assert!(second.rights().may(Right::Follow, "c.d"));

    auth::remove_token(&path, &"first".parse().unwrap()).unwrap();
    assert_eq!(names(), ["second"]);
    assert!(auth::remove_token(&path, &"first".parse().unwrap()).is_err());
    // A mistake that was there before is told, and nothing is written over it.
    fs::write(&path, "[[token]]\nname = 1\n").unwrap();
    let refused = add("third", "segno_3", "{}").unwrap_err().to_string();
    assert!(refused.contains("access.toml:2:8: "), "{refused}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "[[token]]\nname = 1\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_bad_file_is_refused_and_the_old_rules_stay() {
    let token = segno::auth::new_token();
    let doors = Doors::new(&entry("billing", &token, ""));
    fs::write(doors.path(), "[[token]]\nname = \"x\"\n").unwrap();
    let error = doors.access.reload().unwrap_err().to_string();
    assert!(
        error.ends_with("access.toml:1:1: missing field `sha256`"),
        "{error}"
    );
    assert!(doors.token(&token).await.is_ok());
    fs::remove_file(doors.path()).unwrap();
    assert!(doors.access.reload().is_err());
    assert!(doors.token(&token).await.is_ok());
}

/// The file is replaced as editors and Kubernetes do, and written over as scripts do.
#[tokio::test]
async fn a_change_of_the_file_is_in_force_within_two_seconds() {
    let (one, other) = (segno::auth::new_token(), segno::auth::new_token());
    let doors = Doors::new(&entry("a", &one, ""));
    let mut changes = doors.access.changes();
    let changed = async |text: String, by_rename: bool| {
        let target = match by_rename {
            true => doors.folder.path().join("new"),
            false => doors.path(),
        };
        fs::write(&target, text).unwrap();
        if by_rename {
            fs::rename(target, doors.path()).unwrap();
        }
        let begun = Instant::now();
        tokio::time::timeout(Duration::from_secs(10), changes.next())
            .await
            .unwrap();
        begun.elapsed()
    };
    let mut changed = changed;
    tokio::select! {
        () = doors.access.run() => unreachable!("runs for ever"),
        () = async {
            // The same length: the time alone must tell.
            let took = changed(entry("a", &other, ""), false).await;
            assert!(took < Duration::from_secs(2), "{took:?}");
            assert_eq!(doors.token(&one).await, Err(Reason::UnknownToken));
            assert!(doors.token(&other).await.is_ok());
            let took = changed(entry("a", &one, ""), true).await;
            assert!(took < Duration::from_secs(2), "{took:?}");
            assert!(doors.token(&one).await.is_ok());
        } => (),
    }
}

/// Written over by a script that is slow between two pieces: what is not there yet is not taken for removed.
#[tokio::test]
async fn a_file_that_is_being_written_is_not_read_by_halves() {
    let (first, last) = (segno::auth::new_token(), segno::auth::new_token());
    let halves = [entry("first", &first, ""), entry("last", &last, "")];
    let doors = Doors::new(&halves.concat());
    tokio::select! {
        () = doors.access.run() => unreachable!("runs for ever"),
        () = async {
            // The file is looked at every half second.
            let begun = tokio::time::Instant::now();
            for look in 1..=4 {
                let due = begun + look * Duration::from_millis(500);
                for (offset_ms, text) in [(-30, halves[0].clone()), (40, halves.concat())] {
                    let offset = Duration::from_millis(u64::from(i32::unsigned_abs(offset_ms)));
                    let moment = if offset_ms < 0 { due - offset } else { due + offset };
                    tokio::time::sleep_until(moment).await;
                    fs::write(doors.path(), text).unwrap();
                    assert!(doors.token(&last).await.is_ok(), "look {look}");
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(doors.token(&last).await.is_ok(), "look {look}");
            }
        } => (),
    }
}

/// Why a pass has ended, once it has; `None` if it has not after `patience`.
async fn end_of(pass: &auth::Pass, patience: Duration) -> Option<String> {
    let ended = std::future::poll_fn(|context| pass.poll_ended(context));
    tokio::time::timeout(patience, ended).await.ok()
}

/// The end of a token may be brought forward or put off while a stream is open.
#[tokio::test]
async fn a_pass_ends_when_the_file_says_now_and_not_when_it_said_before() {
    let token = segno::auth::new_token();
    let until = |seconds: u64| {
        let expires = segno::event::Timestamp::now().after(Duration::from_secs(seconds));
        entry(
            "a",
            &token,
            &format!("follow = [\"**\"]\nexpires = {expires}"),
        )
    };
    for (before, after, ends) in [(3600, 2, true), (2, 3600, false)] {
        let doors = Doors::new(&until(before));
        let caller = doors.token(&token).await.unwrap();
        let pass = doors.access.pass(&caller).unwrap().unwrap();
        tokio::select! {
            () = doors.access.run() => unreachable!("runs for ever"),
            ended = async {
                doors.change(&until(after));
                end_of(&pass, Duration::from_secs(4)).await
            } => match ends {
                true => {
                    let reason = ended.expect("the pass to end");
                    assert!(reason.starts_with("it expired at"), "{reason}");
                }
                false => assert_eq!(ended, None),
            },
        }
    }
}

/// The rules change between the request and its stream: the stream has the old filter, and must not begin with it.
#[tokio::test]
async fn a_pass_of_a_right_that_has_just_changed_has_ended() {
    let token = segno::auth::new_token();
    let follow = |topic: &str| entry("a", &token, &format!("follow = [\"{topic}\"]"));
    let doors = Doors::new(&follow("**"));
    let caller = doors.token(&token).await.unwrap();
    doors.change(&follow("public"));
    let pass = doors.access.pass(&caller).unwrap().unwrap();
    let ended = end_of(&pass, Duration::from_secs(1)).await;
    assert_eq!(ended.as_deref(), Some("the right to follow has changed"));
}

#[tokio::test]
async fn a_ticket_never_exceeds_what_it_came_from() {
    let token = segno::auth::new_token();
    let with = |rights: &str| entry("page", &token, rights);
    let doors = Doors::new(&with(
        "follow = [\"orders.**\"]\npublish = [\"orders.**\"]\noperate = true",
    ));
    let parent = doors.token(&token).await.unwrap();
    let make = |follow: &[&str]| doors.access.new_ticket(&parent, patterns(follow), HOUR);

    let ticket = make(&["orders.eu", "**.us"]).unwrap().ticket;
    let caller = doors.ticket(&ticket).await.unwrap();
    let may = |topic| caller.rights().may(Right::Follow, topic);
    assert!(may("orders.eu") && may("orders.us"));
    assert!(!may("orders.asia") && !may("secret.us"));
    assert!(!caller.rights().may(Right::Publish, "orders.eu"));
    assert!(!caller.rights().may_operate());
    assert!(matches!(
        doors
            .access
            .new_ticket(&caller, patterns(&["orders.eu"]), HOUR),
        Err(TicketError::FromTicket)
    ));
    assert!(matches!(make(&["secret"]), Err(TicketError::NotAllowed(_))));
    assert!(matches!(make(&[]), Err(TicketError::Number)));
    assert!(matches!(make(&["orders.a"; 21]), Err(TicketError::Number)));
    assert_eq!(doors.token(&ticket).await, Err(Reason::MisplacedTicket));

    doors.change(&with("follow = [\"orders.us\"]"));
    let narrowed = doors.access.renew(&caller).unwrap();
    assert_eq!(narrowed, doors.ticket(&ticket).await.unwrap());
    let may = |topic| narrowed.rights().may(Right::Follow, topic);
    assert!(may("orders.us") && !may("orders.eu"));
    // More for the parent is not more for the ticket.
    doors.change(&with("follow = [\"**\"]"));
    let widened = doors.ticket(&ticket).await.unwrap();
    assert!(!widened.rights().may(Right::Follow, "orders.asia"));
    doors.change("");
    let reason = doors.ticket(&ticket).await.unwrap_err();
    assert_eq!(reason, Reason::Parent(Box::new(Reason::UnknownToken)));
    assert_eq!(doors.access.renew(&caller), Err(reason));
}

#[tokio::test]
async fn a_ticket_ends_in_a_day_or_with_what_it_came_from() {
    let token = segno::auth::new_token();
    let in_an_hour = chrono::Utc::now() + HOUR;
    let expires = format!(
        "follow = [\"a\"]\nexpires = {}",
        in_an_hour.format("%FT%TZ")
    );
    let doors = Doors::new(&format!(
        "[anonymous]\nfollow = [\"public\"]\n{}",
        entry("page", &token, &expires)
    ));
    let parent = doors.token(&token).await.unwrap();
    let month = 30 * 24 * HOUR;
    let ticket = doors
        .access
        .new_ticket(&parent, patterns(&["a"]), month)
        .unwrap();
    assert_eq!(Some(ticket.expires), parent.expires());
    let nobody = doors.access.nobody();
    let ticket = doors
        .access
        .new_ticket(&nobody, patterns(&["public"]), month)
        .unwrap();
    let age = ticket.expires.as_millis() - chrono::Utc::now().timestamp_millis();
    assert!((86_390_000..=86_400_000).contains(&age), "{age}");
    let short = doors
        .access
        .new_ticket(&nobody, patterns(&["public"]), Duration::from_millis(1));
    let short = short.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(
        doors.ticket(&short.ticket).await,
        Err(Reason::Expired(short.expires))
    );
    // The key of another hub.
    let another = Doors::new("");
    let made = another
        .access
        .new_ticket(&nobody, patterns(&["public"]), HOUR)
        .unwrap();
    assert_eq!(
        doors.ticket(&made.ticket).await,
        Err(Reason::TicketSignature)
    );
}

#[tokio::test]
async fn where_everybody_may_do_everything_any_token_is_as_good_as_none() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(folder.path().join("key"));
    let caller = access
        .identify(Presented::Token("segno_whatever"))
        .await
        .unwrap();
    assert!(caller.is_nobody());
    for right in [Right::Publish, Right::Follow, Right::Erase] {
        assert!(caller.rights().may(right, "a"));
    }
    assert!(caller.rights().may_operate());
    let ticket = access.new_ticket(&caller, patterns(&["a"]), HOUR).unwrap();
    let caller = access
        .identify(Presented::Ticket(&ticket.ticket))
        .await
        .unwrap();
    assert!(caller.rights().may(Right::Follow, "a"));
    assert!(!caller.rights().may(Right::Follow, "b"));
    assert!(!caller.rights().may(Right::Publish, "a"));
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    let public = [
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA",
    ];
    let signers: Vec<Signer> = public
        .iter()
        .map(|algorithm| Signer::new(algorithm, &format!("key-{algorithm}"), folder.path()))
        .collect();
    fs::write(folder.path().join("jwks.json"), jwks(&signers)).unwrap();
    let file = issuer(&format!("keys = \"jwks.json\"\nalgorithms = {public:?}"));
    let doors = Doors::within(folder, &file);
    for signer in &signers {
        let token = signer.sign(&good_claims());
        let caller = doors.token(&token).await;
        let caller = caller.unwrap_or_else(|reason| panic!("{}: {reason}", signer.algorithm));
        assert_eq!(caller.name(), Some("alice"));
        assert!(caller.rights().may(Right::Follow, "orders.eu"));
        // Without a kid each key that fits is tried.
        let header = json!({"alg": signer.algorithm});
        assert!(
            doors
                .token(&signer.sign_with(&header, &good_claims()))
                .await
                .is_ok()
        );
        // One bit of the signature.
        let mut bad = token.into_bytes();
        let at = bad.len() - 20;
        bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
        let refused = doors.jwt_refused(std::str::from_utf8(&bad).unwrap()).await;
        assert_eq!(refused, JwtRefused::Signature, "{}", signer.algorithm);
    }
    for algorithm in ["HS256", "HS384", "HS512"] {
        let signer = Signer::new(algorithm, "any", doors.folder.path());
        fs::write(doors.folder.path().join("secret"), signer.secret()).unwrap();
        doors.change(&issuer(&format!(
            "secret_file = \"secret\"\nalgorithms = [{algorithm:?}]"
        )));
        assert!(
            doors.token(&signer.sign(&good_claims())).await.is_ok(),
            "{algorithm}"
        );
    }
    for algorithm in ["RS256", "PS512", "ES256", "EdDSA"] {
        let signer = signers
            .iter()
            .find(|signer| signer.algorithm == algorithm)
            .unwrap();
        fs::write(doors.folder.path().join("key.pem"), signer.pem()).unwrap();
        doors.change(&issuer(&format!(
            "keys = \"key.pem\"\nalgorithms = [{algorithm:?}]"
        )));
        let caller = doors.token(&signer.sign(&good_claims())).await;
        assert!(caller.is_ok(), "{algorithm}: {caller:?}");
    }
}

#[tokio::test]
async fn tokens_that_try_to_confuse_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("RS256", "one", folder.path());
    let stranger = Signer::new("RS256", "one", folder.path());
    fs::write(folder.path().join("key.pem"), signer.pem()).unwrap();
    fs::write(folder.path().join("jwks.json"), jwks([&signer])).unwrap();
    let file = issuer("keys = \"jwks.json\"\nalgorithms = [\"RS256\", \"RS512\"]");
    let doors = Doors::within(folder, &file);
    let claims_with = |name: &str, value: Value| {
        let mut claims = good_claims();
        claims[name] = value;
        claims
    };
    let claims_without = |name: &str| {
        let mut claims = good_claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    let refused = async |token: &str| doors.jwt_refused(token).await.to_string();

    // The algorithm comes from the file: neither none, nor the public key as a secret.
    let unsigned = |alg: &str| {
        let header = base64url(json!({"alg": alg}).to_string());
        format!("{header}.{}.", base64url(good_claims().to_string()))
    };
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let expected = format!("its algorithm (alg) '{alg}' is not one of RS256, RS512");
        assert_eq!(refused(&unsigned(alg)).await, expected);
    }
    assert_eq!(refused(&unsigned("RS256")).await, "its signature is wrong");
    for secret in [signer.pem(), signer.pem().trim().into(), jwks([&signer])] {
        let message = unsigned("HS256");
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
        let signature = ring::hmac::sign(&key, message.trim_end_matches('.').as_bytes());
        let token = format!("{message}{}", base64url(signature));
        let expected = "its algorithm (alg) 'HS256' is not one of RS256, RS512";
        assert_eq!(refused(&token).await, expected);
    }
    // The key says that it is for RS256.
    let header = json!({"alg": "RS512", "kid": "one"});
    let expected = "its issuer has no key 'one' for RS512";
    assert_eq!(
        refused(&signer.sign_with(&header, &good_claims())).await,
        expected
    );

    // The kid only chooses among the issuer's keys; keys that a token brings are not looked at.
    for kid in ["../../../dev/null", "' or '1'='1", "two\r\nx: y", ""] {
        let header = json!({"alg": "RS256", "kid": kid});
        let reason = refused(&signer.sign_with(&header, &good_claims())).await;
        assert!(reason.starts_with("its issuer has no key '"), "{reason}");
        assert!(!reason.contains(['\r', '\n']), "{reason}");
    }
    for extra in [
        json!({"jwk": stranger.jwk()}),
        json!({"jku": "http://127.0.0.1:1/"}),
        json!({"x5u": "http://127.0.0.1:1/"}),
    ] {
        let mut header = json!({"alg": "RS256", "kid": "one"});
        header
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        let token = stranger.sign_with(&header, &good_claims());
        assert_eq!(refused(&token).await, "its signature is wrong");
    }
    let header = json!({"alg": "RS256", "crit": ["exp"], "exp": 1});
    let token = signer.sign_with(&header, &good_claims());
    assert_eq!(
        refused(&token).await,
        "it cannot be read: its header has crit"
    );

    // Whose and when.
    for (claims, expected) in [
        (
            claims_with("aud", json!("other")),
            "its audience (aud) is not segno",
        ),
        (
            claims_with("aud", json!(["other", "segnox"])),
            "its audience (aud) is not segno",
        ),
        (
            claims_with("aud", json!([])),
            "its audience (aud) is not segno",
        ),
        (claims_without("aud"), "its audience (aud) is not segno"),
        (
            claims_with("aud", json!(7)),
            "its audience (aud) is not segno",
        ),
        (
            claims_with("iss", json!("https://id.example.evil")),
            "its issuer (iss) 'https://id.example.evil' is not in the access file",
        ),
        (claims_without("iss"), "it has no issuer (iss)"),
        (
            claims_with("iss", json!(["https://id.example"])),
            "it has no issuer (iss)",
        ),
        (
            claims_without("exp"),
            "its claim exp is missing or is not what RFC 7519 says",
        ),
        (
            claims_with("exp", json!("soon")),
            "its claim exp is missing or is not what RFC 7519 says",
        ),
        (
            claims_with("exp", json!(-1)),
            "its claim exp is missing or is not what RFC 7519 says",
        ),
        (
            claims_with("exp", json!(1_000_000_000)),
            "it expired at 2001-09-09T01:46:40.000Z (exp)",
        ),
        (
            claims_with("nbf", json!(9_999_999_999_u64)),
            "it is not good before 2286-11-20T17:46:39.000Z (nbf)",
        ),
        (
            claims_with("segno", json!({"folow": ["a"]})),
            "its claim segno has no rights in it: unknown field `folow`, expected one of `publish`, `follow`, `erase`, `operate`",
        ),
        (
            claims_with("segno", json!({"follow": "**"})),
            "its claim segno has no rights in it: invalid type: string \"**\", expected a sequence",
        ),
    ] {
        assert_eq!(refused(&signer.sign(&claims)).await, expected, "{claims}");
    }
    // Clocks may be 30 s apart, and no more.
    for (exp, is_good) in [(now() - 32, false), (now() - 25, true)] {
        let token = signer.sign(&claims_with("exp", json!(exp)));
        assert_eq!(doors.token(&token).await.is_ok(), is_good);
    }
    for (nbf, is_good) in [(now() + 25, true), (now() + 35, false)] {
        let token = signer.sign(&claims_with("nbf", json!(nbf)));
        assert_eq!(doors.token(&token).await.is_ok(), is_good);
    }
    // A claim that is there twice: libraries differ in which one they take.
    let claims = good_claims().to_string();
    let twice = format!("{},\"exp\":{}}}", claims.trim_end_matches('}'), now() + 60);
    let twice = twice.replace("\"orders.**\"]", "\"orders.**\"]}");
    let token = signer.sign_text(r#"{"alg":"RS256"}"#, &twice);
    assert!(
        matches!(doors.jwt_refused(&token).await, JwtRefused::Form(_)),
        "{twice}"
    );

    // Far too large, and no token at all.
    let huge = signer.sign(&claims_with("pad", json!("x".repeat(10_000))));
    assert_eq!(doors.jwt_refused(&huge).await, JwtRefused::TooLong);
    for bad in ["..", "a.b.c", "ey.ey.ey", "e30.e30.e30"] {
        assert!(doors.token(bad).await.is_err(), "{bad}");
    }
    assert_eq!(doors.token("a.b.c.d").await, Err(Reason::Form));
    // After all that, a good one is good.
    assert!(doors.token(&signer.sign(&good_claims())).await.is_ok());
}

#[tokio::test]
async fn a_token_without_the_claim_may_do_what_the_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::new("EdDSA", "one", folder.path());
    fs::write(folder.path().join("jwks.json"), jwks([&signer])).unwrap();
    let file = issuer(
        "keys = \"jwks.json\"\nalgorithms = [\"EdDSA\"]\nclaim = \"https://segno/rights\"\nfollow = [\"news\"]",
    );
    let doors = Doors::within(folder, &file);
    let mut claims = good_claims();
    let caller = doors.token(&signer.sign(&claims)).await.unwrap();
    assert!(caller.rights().may(Right::Follow, "news"));
    assert!(!caller.rights().may(Right::Follow, "orders.eu"));
    claims["https://segno/rights"] = json!({"publish": ["a"]});
    let caller = doors.token(&signer.sign(&claims)).await.unwrap();
    assert!(caller.rights().may(Right::Publish, "a"));
    assert!(!caller.rights().may(Right::Follow, "news"));

    // A ticket of it has no more than both, and dies when the issuer leaves the file.
    claims["https://segno/rights"] = json!({"follow": ["a", "b"]});
    let parent = doors.token(&signer.sign(&claims)).await.unwrap();
    let ticket = doors
        .access
        .new_ticket(&parent, patterns(&["a"]), HOUR)
        .unwrap()
        .ticket;
    let caller = doors.ticket(&ticket).await.unwrap();
    assert!(caller.rights().may(Right::Follow, "a") && !caller.rights().may(Right::Follow, "b"));
    doors.change("");
    let gone = Reason::Parent(Box::new(Reason::IssuerGone));
    assert_eq!(doors.ticket(&ticket).await, Err(gone));
    assert_eq!(doors.access.renew(&parent), Err(Reason::IssuerGone));
}

/// What was found good before is not good for ever: not with other keys in the file, and not with another file.
#[tokio::test]
async fn what_was_verified_is_verified_anew_when_keys_or_file_change() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (
        Signer::new("EdDSA", "same", folder.path()),
        Signer::new("EdDSA", "same", folder.path()),
    );
    let keys = folder.path().join("jwks.json");
    fs::write(&keys, jwks([&old])).unwrap();
    let file = issuer("keys = \"jwks.json\"\nalgorithms = [\"EdDSA\"]");
    let doors = Doors::within(folder, &file);
    let token = old.sign(&good_claims());
    let verified = doors.token(&token).await.unwrap();
    for _ in 0..3 {
        // The same in memory: what was found out, and not found out again.
        assert!(Arc::ptr_eq(&verified, &doors.token(&token).await.unwrap()));
    }
    let other = old.sign(
        &json!({"exp": now() + 60, "sub": "bob", "iss": "https://id.example", "aud": "segno"}),
    );
    let other = doors.token(&other).await.unwrap();
    assert_eq!(
        (verified.name(), other.name()),
        (Some("alice"), Some("bob"))
    );
    fs::write(&keys, jwks([&new])).unwrap();
    doors.access.reload().unwrap();
    assert_eq!(doors.jwt_refused(&token).await, JwtRefused::Signature);
    assert!(doors.token(&new.sign(&good_claims())).await.is_ok());
    doors.change("");
    assert_eq!(doors.jwt_refused(&token).await, JwtRefused::NoIssuers);
}

/// An identity provider that gives its keys over HTTP, on loopback.
struct KeyServer {
    url: String,
    /// `None` answers 503.
    keys: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl KeyServer {
    async fn start(keys: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            url: format!("http://{}/jwks.json", listener.local_addr().unwrap()),
            keys: Arc::new(Mutex::new(Some(keys))),
            asked: Arc::default(),
        };
        let (keys, asked) = (server.keys.clone(), server.asked.clone());
        tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                asked.fetch_add(1, Relaxed);
                let answer = match &*keys.lock().unwrap() {
                    Some(keys) => format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}",
                        keys.len()
                    ),
                    None => {
                        "HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into()
                    }
                };
                _ = socket.read(&mut [0; 4096]).await;
                _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        server
    }
}

#[tokio::test]
async fn keys_are_fetched_kept_and_fetched_again_for_an_unknown_kid() {
    let folder = tempfile::tempdir().unwrap();
    let signer = |kid| Signer::new("ES256", kid, folder.path());
    let (first, second) = (signer("first"), signer("second"));
    let server = KeyServer::start(jwks([&first])).await;
    let file = issuer(&format!(
        "keys = \"{}\"\nalgorithms = [\"ES256\"]",
        server.url
    ));
    let doors = Doors::new(&file);
    let asked = || server.asked.load(Relaxed);
    assert_eq!(asked(), 0);
    let token = first.sign(&good_claims());
    // Nobody has fetched them yet: the first token waits for it, and the others wait with it.
    let all = futures_util::future::join_all((0..20).map(|_| doors.token(&token))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    assert_eq!(asked(), 1);

    // An unknown key within 10 s is not worth another question, however often it is named.
    *server.keys.lock().unwrap() = Some(jwks([&first, &second]));
    let new = second.sign(&good_claims());
    for _ in 0..50 {
        assert!(matches!(
            doors.jwt_refused(&new).await,
            JwtRefused::Key { .. }
        ));
    }
    assert_eq!(asked(), 1);
    tokio::time::sleep(Duration::from_millis(10_100)).await;
    assert!(doors.token(&new).await.is_ok());
    assert_eq!(asked(), 2);

    // The server is away, and the access file is read again: what was fetched stays.
    *server.keys.lock().unwrap() = None;
    doors.change(&format!("# changed\n{file}"));
    assert!(doors.token(&token).await.is_ok());
    assert!(doors.token(&new).await.is_ok());
    let unknown = signer("third").sign(&good_claims());
    assert!(matches!(
        doors.jwt_refused(&unknown).await,
        JwtRefused::Key { .. }
    ));
    assert_eq!(asked(), 2);
}
