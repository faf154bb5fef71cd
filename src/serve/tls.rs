//! TLS: the certificate and its key, from two files in PEM form.
//!
//! rustls with ring speaks it, versions 1.2 and 1.3. A connection takes the certificate that there is when it begins; one
//! that is read again counts for those that come after, and one that is wrong changes nothing. Errors name the file and
//! never hold a part of it, since one of them is secret.

use super::files;
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// The files that make a server speak TLS.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The server's certificate, and behind it those of its issuers, as far as clients may not know them.
    pub certificate: PathBuf,
    /// The key of the first.
    pub key: PathBuf,
}

/// What they hold.
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads them.
    ///
    /// # Errors
    /// `Io` when one cannot be read; `Invalid` when one does not hold what it should, or they do not belong together.
    pub fn open(files: TlsFiles) -> Result<Tls> {
        let config = RwLock::new(Arc::new(read(&files, files::read)?));
        Ok(Tls { files, config })
    }

    /// Reads them again.
    pub fn reload(&self) {
        match read(&self.files, files::reread) {
            Err(e) => tracing::warn!("the certificate stays as it was: {e}"),
            Ok(config) => {
                *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!("the certificate was read again");
            }
        }
    }

    /// For a connection that begins.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }
}

fn read(files: &TlsFiles, text: impl Fn(&Path, &str) -> Result<String>) -> Result<ServerConfig> {
    let TlsFiles { certificate, key } = files;
    let certificates = certificates(certificate, &text(certificate, "certificate")?)?;
    let secret = secret(key, &text(key, "key")?)?;
    let wrong = |e| {
        let problem = match e {
            rustls::Error::InconsistentKeys(_) => format!("is not the key of {}", certificate.display()),
            e => format!("cannot be used with {}: {e}", certificate.display()),
        };
        Error::Invalid(format!("{} {problem}", key.display()))
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(wrong)?;
    let mut config = config.with_no_client_auth().with_single_cert(certificates, secret).map_err(wrong)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path, text: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    match all.map_err(|_| damaged(path))? {
        none if none.is_empty() => {
            Err(Error::Invalid(format!("{} has no certificate: PEM is needed (BEGIN CERTIFICATE)", path.display())))
        }
        all => Ok(all),
    }
}

fn secret(path: &Path, text: &str) -> Result<PrivateKeyDer<'static>> {
    let file = path.display();
    // Of PKCS#8, and of the older forms.
    if ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"].iter().any(|mark| text.contains(mark)) {
        let instead = format!("decrypt it: openssl pkey -in {file} -out PLAIN, which only the server's user may read");
        return Err(Error::Invalid(format!("{file}: the key is encrypted, and nobody is there to ask; {instead}")));
    }
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|e| match e {
        pem::Error::NoItemsFound => Error::Invalid(format!("{file} has no key: PEM is needed (BEGIN PRIVATE KEY)")),
        _ => damaged(path),
    })
}

fn damaged(path: &Path) -> Error {
    Error::Invalid(format!("{}: a part of it in PEM form is damaged", path.display()))
}
