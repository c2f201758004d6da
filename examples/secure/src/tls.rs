//! TLS 1.3 in the place of the TCP stream, with certificates on both sides.
//!
//! Owns the certificates and what the two ends do before the connection is live; knows no messages.

use std::{io, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector, TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
        server::WebPkiClientVerifier,
        version::TLS13,
    },
};

use crate::invalid;

/// Signs the certificates of a group; whoever has one belongs to it.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(io::Error::other)?;
        CertifiedIssuer::self_signed(params, key).map(Self).map_err(io::Error::other)
    }

    /// Makes a key, and a certificate for it that is good for dialling and for listening.
    pub fn issue(&self, name: &str) -> io::Result<Credentials> {
        let mut params = CertificateParams::new([name.to_owned()]).map_err(io::Error::other)?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let certificate = params.signed_by(&key, &self.0).map_err(io::Error::other)?;
        Ok(Credentials { certificate, key })
    }

    /// The certificate by which others check those that it signs.
    pub fn pem(&self) -> String {
        self.0.as_ref().pem()
    }
}

/// What a member proves its name with.
pub struct Credentials {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

impl Credentials {
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// What a handshake returns in the place of the TCP stream.
pub type Encrypted = TlsStream<BufReader<TcpStream>>;

/// How a node dials and listens.
#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    /// `None` without credentials: such a node can only try to dial.
    acceptor: Option<TlsAcceptor>,
}

impl Tls {
    pub fn new(authority: &Authority, credentials: Option<&Credentials>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(authority.0.as_ref().der().clone()).map_err(io::Error::other)?;
        let roots = Arc::new(roots);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let dials = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&roots));
        let Some(credentials) = credentials else {
            let dials = dials.with_no_client_auth();
            return Ok(Self { connector: Arc::new(dials).into(), acceptor: None });
        };
        let dials =
            dials.with_client_auth_cert(credentials.chain(), credentials.private_key()).map_err(io::Error::other)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(io::Error::other)?;
        let mut accepts = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(credentials.chain(), credentials.private_key())
            .map_err(io::Error::other)?;
        // Nobody resumes a session here.
        accepts.send_tls13_tickets = 0;
        Ok(Self { connector: Arc::new(dials).into(), acceptor: Some(Arc::new(accepts).into()) })
    }

    /// The dialler's side: returns the stream once the listener, who must have this name, has said that we are welcome.
    ///
    /// Waiting for that word is what makes a dial fail when it has to: in TLS 1.3, the dialler is done before the listener
    /// has looked at the dialler's certificate.
    ///
    /// # Errors
    /// What is wrong with the certificate of either side, or what the stream says.
    pub async fn dial(&self, stream: TcpStream, name: &str) -> io::Result<Encrypted> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut stream = TlsStream::from(self.connector.connect(name, buffered(stream)).await?);
        for expected in WELCOME {
            if stream.read_u8().await? != *expected {
                return Err(invalid("the listener does not say welcome"));
            }
        }
        Ok(stream)
    }

    /// The listener's side: returns the stream, and the name in the dialler's certificate.
    ///
    /// # Errors
    /// What is wrong with the dialler's certificate, or what the stream says.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(Encrypted, String)> {
        let acceptor =
            self.acceptor.as_ref().ok_or_else(|| io::Error::other("nobody can listen without credentials"))?;
        let mut stream = acceptor.accept(buffered(stream)).await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = name_in(certificates.first().ok_or_else(|| invalid("there is no certificate"))?)?;
        stream.write_all(WELCOME).await?;
        stream.flush().await?;
        Ok((stream.into(), name))
    }
}

/// By itself, rustls asks the system for 4 KiB at a time.
fn buffered(stream: TcpStream) -> BufReader<TcpStream> {
    BufReader::with_capacity(READ_BUFFER, stream)
}

/// The name that a verified certificate is for.
fn name_in(certificate: &CertificateDer<'_>) -> io::Result<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).map_err(|error| invalid(error.to_string()))?;
    let name = certificate.valid_dns_names().next().ok_or_else(|| invalid("the certificate has no name"))?;
    Ok(name.to_owned())
}

/// The listener's first words.
pub const WELCOME: &[u8] = b"welcome\n";

/// Room for several records, each of which has at most 16 KiB.
const READ_BUFFER: usize = 64 << 10;
