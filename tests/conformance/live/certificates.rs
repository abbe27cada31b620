//! Certificates of a run: upstreams' ones, named after their service, and clients' ones from the right and from another
//! authority. Nobody here verifies a peer: what was presented is for the cases to judge.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName as Name, ServerConfig, SignatureScheme};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::case::{ClientCert, TlsVersion};

type Issuer = CertifiedIssuer<'static, KeyPair>;

static AUTHORITY: LazyLock<Issuer> = LazyLock::new(|| authority("conformance"));
static OTHER_AUTHORITY: LazyLock<Issuer> = LazyLock::new(|| authority("another"));
static ACCEPTORS: LazyLock<Mutex<HashMap<String, Acceptor>>> = LazyLock::new(Mutex::default);

#[derive(Clone)]
struct Acceptor {
    config: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = distinguished(name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

fn distinguished(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn issue(name: &str, issuer: &Issuer) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
    params.distinguished_name = distinguished(name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
}

/// For an upstream whose certificate is named after `service`.
pub(crate) fn acceptor(service: &str) -> TlsAcceptor {
    let mut acceptors = ACCEPTORS.lock().unwrap();
    let acceptor = acceptors.entry(service.to_owned()).or_insert_with(|| {
        let (certificate, key) = issue(service, &AUTHORITY);
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_client_cert_verifier(Arc::new(Anyone(provider().signature_verification_algorithms)))
            .with_single_cert(vec![certificate.clone()], key);
        let mut config = config.expect("a certificate with its key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Acceptor { config: Arc::new(config), certificate }
    });
    acceptor.config.clone().into()
}

/// The name of a certificate that an upstream presented.
pub(crate) fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let acceptors = ACCEPTORS.lock().unwrap();
    acceptors.iter().find(|(_, it)| it.certificate == *certificate).map(|(name, _)| name.clone())
}

/// For a client. `alpn` is what it offers.
pub(crate) fn connector(
    certificate: Option<ClientCert>,
    max: Option<TlsVersion>,
    alpn: &[&str],
) -> TlsConnector {
    let versions: &[_] = match max {
        Some(TlsVersion::V12) => &[&rustls::version::TLS12],
        Some(TlsVersion::V13) | None => &[&rustls::version::TLS12, &rustls::version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .expect("versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider().signature_verification_algorithms)));
    let mut config = match certificate {
        None => builder.with_no_client_auth(),
        Some(which) => {
            let issuer = if which == ClientCert::Good { &AUTHORITY } else { &OTHER_AUTHORITY };
            let (certificate, key) = issue("client", issuer);
            builder.with_client_auth_cert(vec![certificate], key).expect("a certificate with its key")
        }
    };
    config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
    Arc::new(config).into()
}

/// Takes any peer that holds the key of its certificate.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[Name] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
