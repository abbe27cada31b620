//! Tokens that cases send: signed with a key of this run, whose public half stands where a configuration says `<test jwks>`.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Map, Value, json};

static KEY: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    let random = SystemRandom::new();
    let document =
        EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a new key");
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref(), &random).expect("a key")
});

/// A token with these claims. `exp: past` has expired; without `exp` it is good for an hour.
pub(crate) fn signed(claims: &Map<String, Value>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut claims = claims.clone();
    let hour = Duration::from_secs(3600);
    let expires = if claims.get("exp").is_some_and(|it| it == "past") { now - hour } else { now + hour };
    if claims.get("exp").is_none_or(Value::is_string) {
        claims.insert("exp".into(), expires.as_secs().into());
    }
    let head = json!({"alg": "ES256", "typ": "JWT", "kid": "test"});
    let text = format!(
        "{}.{}",
        base64url(head.to_string().as_bytes()),
        base64url(Value::Object(claims).to_string().as_bytes())
    );
    let signature = KEY.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature");
    format!("{text}.{}", base64url(signature.as_ref()))
}

/// The key set.
pub(crate) fn jwks() -> String {
    // 4, x, y.
    let point = KEY.public_key().as_ref();
    let key = json!({
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "test",
        "x": base64url(&point[1..33]), "y": base64url(&point[33..65]),
    });
    json!({ "keys": [key] }).to_string()
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - chunk.len()));
        text.extend((0..=chunk.len()).map(|at| char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize])));
    }
    text
}
