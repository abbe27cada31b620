//! The cluster's certificates: who is who to the API server, and the API server to all.
//!
//! RBAC knows the components by the names in their certificates (`system:kube-scheduler`, group `system:nodes`, ...).
//! <https://kubernetes.io/docs/setup/best-practices/certificates/>

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType,
};

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM.
    pub certificate: PathBuf,
    /// PKCS #8, PEM.
    pub key: PathBuf,
}

/// Issues certificates into a folder.
#[derive(Debug)]
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    /// A new one, whose certificate is `<name>.crt` in `folder`.
    pub fn new(folder: &Path, name: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name = distinguished(name, None);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let certificate = write(folder, &format!("{name}.crt"), &issuer.pem())?;
        write(folder, &format!("{name}.key"), &issuer.key().serialize_pem())?;
        Ok(Self { folder: folder.to_owned(), issuer, certificate })
    }

    /// What those who trust it are given.
    pub fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Its key, for the controller that signs requests of the API.
    pub fn key(&self) -> PathBuf {
        self.certificate.with_extension("key")
    }

    /// For a client: the API server takes `user` for its name and `group` for its group.
    pub fn client(&self, file: &str, user: &str, group: Option<&str>) -> anyhow::Result<Identity> {
        self.issue(file, user, group, ExtendedKeyUsagePurpose::ClientAuth, Vec::new())
    }

    /// For a server at these names and addresses.
    pub fn server(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        names: &[&str],
        addresses: &[IpAddr],
    ) -> anyhow::Result<Identity> {
        let names = names.iter().map(|n| Ok(SanType::DnsName((*n).try_into()?)));
        let mut all = names.collect::<anyhow::Result<Vec<_>>>()?;
        all.extend(addresses.iter().map(|a| SanType::IpAddress(*a)));
        self.issue(file, user, group, ExtendedKeyUsagePurpose::ServerAuth, all)
    }

    fn issue(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
        names: Vec<SanType>,
    ) -> anyhow::Result<Identity> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(user, group);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.subject_alt_names = names;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: write(&self.folder, &format!("{file}.crt"), &certificate.pem())?,
            key: write(&self.folder, &format!("{file}.key"), &key.serialize_pem())?,
        })
    }
}

/// The pair of keys that signs the tokens of service accounts.
pub fn token_keys(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let key = KeyPair::generate()?;
    let private = write(folder, "service-account.key", &key.serialize_pem())?;
    Ok((private, write(folder, "service-account.pub", &key.public_key_pem())?))
}

fn distinguished(user: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, user);
    name
}

fn write(folder: &Path, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
