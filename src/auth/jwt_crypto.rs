//! Signatures of JSON Web Tokens, checked with *ring*.
//!
//! *ring* is in the program already, for TLS, and knows every algorithm that is asked for; the providers that come with
//! `jsonwebtoken` would add a second cryptographic library.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::ErrorKind,
};
use ring::{
    hmac,
    signature::{
        self as ring_signature, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use signature::{Error, Verifier};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: |algorithm, key| {
        if algorithm.family() != key.family() {
            return Err(ErrorKind::InvalidKeyFormat.into());
        }
        Ok(Box::new(Ring {
            algorithm: *algorithm,
            key: key.clone(),
        }))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Has `jsonwebtoken` check signatures with *ring*. May be called more than once.
pub(super) fn install() {
    _ = PROVIDER.install_default();
}

struct Ring {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Ring {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Ring {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let is_good = match self.algorithm {
            Algorithm::HS256 => self.is_hmac(hmac::HMAC_SHA256, message, signature),
            Algorithm::HS384 => self.is_hmac(hmac::HMAC_SHA384, message, signature),
            Algorithm::HS512 => self.is_hmac(hmac::HMAC_SHA512, message, signature),
            Algorithm::RS256 => self.is_rsa(
                &ring_signature::RSA_PKCS1_2048_8192_SHA256,
                message,
                signature,
            ),
            Algorithm::RS384 => self.is_rsa(
                &ring_signature::RSA_PKCS1_2048_8192_SHA384,
                message,
                signature,
            ),
            Algorithm::RS512 => self.is_rsa(
                &ring_signature::RSA_PKCS1_2048_8192_SHA512,
                message,
                signature,
            ),
            Algorithm::PS256 => self.is_rsa(
                &ring_signature::RSA_PSS_2048_8192_SHA256,
                message,
                signature,
            ),
            Algorithm::PS384 => self.is_rsa(
                &ring_signature::RSA_PSS_2048_8192_SHA384,
                message,
                signature,
            ),
            Algorithm::PS512 => self.is_rsa(
                &ring_signature::RSA_PSS_2048_8192_SHA512,
                message,
                signature,
            ),
            Algorithm::ES256 => {
                self.is_of_point(&ring_signature::ECDSA_P256_SHA256_FIXED, message, signature)
            }
            Algorithm::ES384 => {
                self.is_of_point(&ring_signature::ECDSA_P384_SHA384_FIXED, message, signature)
            }
            Algorithm::EdDSA => self.is_of_point(&ring_signature::ED25519, message, signature),
            // One that the library learned after this was written.
            _ => false,
        };
        is_good.then_some(()).ok_or_else(Error::new)
    }
}

impl Ring {
    fn is_hmac(&self, algorithm: hmac::Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let DecodingKeyKind::SecretOrDer(secret) = self.key.kind() else {
            return false;
        };
        hmac::verify(&hmac::Key::new(algorithm, secret), message, signature).is_ok()
    }

    fn is_rsa(
        &self,
        algorithm: &'static ring_signature::RsaParameters,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        match self.key.kind() {
            DecodingKeyKind::RsaModulusExponent { n, e } => RsaPublicKeyComponents {
                n: without_leading_zeros(n),
                e: without_leading_zeros(e),
            }
            .verify(algorithm, message, signature)
            .is_ok(),
            DecodingKeyKind::SecretOrDer(der) => UnparsedPublicKey::new(algorithm, der)
                .verify(message, signature)
                .is_ok(),
        }
    }

    fn is_of_point(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let DecodingKeyKind::SecretOrDer(point) = self.key.kind() else {
            return false;
        };
        UnparsedPublicKey::new(algorithm, point)
            .verify(message, signature)
            .is_ok()
    }
}

/// Some write a number with zeros in front, which *ring* refuses.
fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}
