//! An issuer of JSON Web Tokens for tests: makes keys and signs what it is told to, good or bad.

use std::{path::Path, process::Command};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{hmac, rand::SystemRandom, signature};
use serde_json::{Value, json};

/// Signs with one key.
pub(crate) struct Signer {
    pub(crate) algorithm: &'static str,
    pub(crate) kid: String,
    key: Key,
}

enum Key {
    Hmac(Vec<u8>),
    Ec(signature::EcdsaKeyPair),
    Ed(signature::Ed25519KeyPair),
    Rsa(signature::RsaKeyPair),
}

pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> i64 {
    chrono::Utc::now().timestamp()
}

/// Claims that are good for the next hour, for the issuer and audience of these tests.
pub(crate) fn good_claims() -> Value {
    json!({
        "iss": "https://id.example",
        "aud": "segno",
        "sub": "alice",
        "exp": now() + 3600,
        "segno": {"follow": ["orders.**"]},
    })
}

impl Signer {
    /// A new key for `algorithm`. One for RSA takes its private key from `openssl`, because *ring* makes none.
    pub(crate) fn new(algorithm: &'static str, kid: &str, folder: &Path) -> Self {
        let random = SystemRandom::new();
        let key = match algorithm {
            "HS256" | "HS384" | "HS512" => Key::Hmac(format!("{kid:0>64}").into_bytes()),
            "ES256" | "ES384" => {
                let signing = match algorithm {
                    "ES256" => &signature::ECDSA_P256_SHA256_FIXED_SIGNING,
                    _ => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                };
                let der = signature::EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
                let pair = signature::EcdsaKeyPair::from_pkcs8(signing, der.as_ref(), &random);
                Key::Ec(pair.unwrap())
            }
            "EdDSA" => {
                let der = signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Key::Ed(signature::Ed25519KeyPair::from_pkcs8(der.as_ref()).unwrap())
            }
            _ => {
                let path = folder.join(format!("{kid}.der"));
                let made = Command::new("openssl")
                    .args([
                        "genpkey",
                        "-algorithm",
                        "RSA",
                        "-pkeyopt",
                        "rsa_keygen_bits:2048",
                    ])
                    .args(["-outform", "DER", "-out"])
                    .arg(&path)
                    .output()
                    .unwrap();
                assert!(made.status.success());
                let der = std::fs::read(path).unwrap();
                // Versions of OpenSSL differ in the form they choose.
                let pair = signature::RsaKeyPair::from_pkcs8(&der)
                    .or_else(|_| signature::RsaKeyPair::from_der(&der));
                Key::Rsa(pair.unwrap())
            }
        };
        Self {
            algorithm,
            kid: kid.into(),
            key,
        }
    }

    pub(crate) fn secret(&self) -> &[u8] {
        let Key::Hmac(secret) = &self.key else {
            panic!("only HMAC has a secret");
        };
        secret
    }

    fn header(&self) -> Value {
        json!({"alg": self.algorithm, "kid": self.kid, "typ": "JWT"})
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_with(&self.header(), claims)
    }

    /// Signs with a header that may lie.
    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&header.to_string(), &claims.to_string())
    }

    pub(crate) fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = self.signature(message.as_bytes());
        format!("{message}.{}", base64url(signature))
    }

    fn signature(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.key {
            Key::Hmac(secret) => {
                let algorithm = match self.algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    _ => hmac::HMAC_SHA512,
                };
                hmac::sign(&hmac::Key::new(algorithm, secret), message)
                    .as_ref()
                    .to_vec()
            }
            Key::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Key::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match self.algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, message, &mut signature)
                    .unwrap();
                signature
            }
        }
    }

    /// The public key as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        use signature::KeyPair;
        let mut jwk = match &self.key {
            Key::Hmac(secret) => json!({"kty": "oct", "k": base64url(secret)}),
            Key::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if self.algorithm == "ES256" {
                    "P-256"
                } else {
                    "P-384"
                };
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Key::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key())})
            }
            Key::Rsa(pair) => {
                let public: signature::RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                json!({"kty": "RSA", "n": base64url(public.n), "e": base64url(public.e)})
            }
        };
        jwk["kid"] = json!(self.kid);
        jwk["alg"] = json!(self.algorithm);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        use signature::KeyPair;
        // The head of a `SubjectPublicKeyInfo` up to the key, as OpenSSL writes it. Source: RFC 5480, RFC 8410.
        let spki: Vec<u8> = match &self.key {
            Key::Ec(pair) if self.algorithm == "ES256" => [
                &[
                    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
                ][..],
                &[
                    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
                ],
                pair.public_key().as_ref(),
            ]
            .concat(),
            Key::Ed(pair) => [
                &[
                    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
                ][..],
                pair.public_key().as_ref(),
            ]
            .concat(),
            Key::Rsa(pair) => {
                let key = pair.public_key().as_ref();
                let bits = 1 + key.len();
                let length = |bytes: usize| {
                    let [high, low] = u16::try_from(bytes).unwrap().to_be_bytes();
                    [0x82, high, low]
                };
                [
                    &[0x30][..],
                    &length(15 + 4 + bits),
                    &[
                        0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01,
                        0x01,
                    ],
                    &[0x05, 0x00, 0x03],
                    &length(bits),
                    &[0x00],
                    key,
                ]
                .concat()
            }
            Key::Hmac(_) | Key::Ec(_) => panic!("not made for {}", self.algorithm),
        };
        let base64 = base64::engine::general_purpose::STANDARD.encode(spki);
        format!("-----BEGIN PUBLIC KEY-----\n{base64}\n-----END PUBLIC KEY-----\n")
    }
}

/// A key set of all of them.
pub(crate) fn jwks<'a>(signers: impl IntoIterator<Item = &'a Signer>) -> String {
    let keys: Vec<Value> = signers.into_iter().map(Signer::jwk).collect();
    json!({ "keys": keys }).to_string()
}
