//! Tests of [`super`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
use rcgen::SanType;

use super::*;

static NOW: std::sync::LazyLock<Timestamp> = std::sync::LazyLock::new(|| Timestamp::from_secs(1_800_000_000));
const DAY: Duration = Duration::from_secs(24 * 3600);

fn authority() -> Authority {
    let key = Key::generate().unwrap();
    Authority::load(&key.to_pem(), &Authority::certify(&key, *NOW).unwrap()).unwrap()
}

fn request(change: impl FnOnce(&mut CertificateParams)) -> String {
    request_with(&KeyPair::generate().unwrap(), change)
}

fn request_with(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn refusal(request: &str) -> RequestError {
    authority().answer(request, "a1", DAY, *NOW).unwrap_err()
}

#[test]
fn an_agent_gets_a_clients_certificate_under_its_own_name() {
    let (authority, key) = (authority(), KeyPair::generate().unwrap());
    let own = request_with(&key, |params| params.distinguished_name.push(DnType::CommonName, "a1"));
    for request in [request_with(&key, |_| {}), own] {
        let pem = authority.answer(&request, "a1", DAY, *NOW).unwrap();
        let seen = Seen::read(&pem).unwrap();
        assert!(seen.is_for(&Key(KeyPair::from_pem(&key.serialize_pem()).unwrap())) && seen.is_signed_by(&authority));
        assert!(seen.serves(Purpose::Client) && !seen.serves(Purpose::Server(&[])));
        assert_eq!(seen.validity().unwrap(), (*NOW - SKEW_MAX, *NOW + DAY));
        seen.with(|it| {
            assert_eq!(it.subject().to_string(), "CN=a1");
            assert!(!it.is_ca() && it.subject_alternative_name().unwrap().is_none());
        })
        .unwrap();
    }
}

#[test]
fn a_request_for_somebody_else_or_for_more_is_refused() {
    for name in ["a2", "", "a1 ", "A1", "gateway"] {
        let other = request(|params| params.distinguished_name.push(DnType::CommonName, name));
        assert!(matches!(refusal(&other), RequestError::Subject(_)), "{name}");
    }
    let organization = request(|params| params.distinguished_name.push(DnType::OrganizationName, "a1"));
    assert!(matches!(refusal(&organization), RequestError::Subject(_)));
    let twice = request(|params| {
        params.distinguished_name.push(DnType::CommonName, "a1");
        params.distinguished_name.push(DnType::OrganizationName, "admins");
    });
    assert!(matches!(refusal(&twice), RequestError::Subject(_)));
    let wishes: [fn(&mut CertificateParams); 5] = [
        |params| params.subject_alt_names = vec![SanType::DnsName("broker".try_into().unwrap())],
        |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        |params| params.is_ca = IsCa::ExplicitNoCa,
        |params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign],
        |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
    ];
    for wish in wishes {
        let error = refusal(&request(wish));
        assert!(matches!(error, RequestError::Extension(_)), "{error}");
    }
}

#[test]
fn a_request_that_is_damaged_or_signed_by_another_key_is_refused() {
    let good = request(|_| {});
    for garbage in ["", "x", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----", &good[..good.len() / 2]] {
        assert!(matches!(refusal(garbage), RequestError::Malformed(_)), "{garbage}");
    }
    assert!(matches!(refusal(&format!("{good}{}", " ".repeat(8192))), RequestError::TooLong(_)));
    // Another certificate in its place.
    assert!(matches!(refusal(authority().pem()), RequestError::Malformed(_)));
    // The last bytes are of the signature.
    let mut der = pem_bytes(&good);
    let last = der.len() - 1;
    der[last] ^= 1;
    assert!(matches!(refusal(&pem_text(&der)), RequestError::Signature));
    // Cut short within the structure.
    der.truncate(last - 8);
    assert!(matches!(refusal(&pem_text(&der)), RequestError::Malformed(_)));
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(refusal(&request_with(&other, |_| {})), RequestError::Key));
}

fn pem_bytes(pem: &str) -> Vec<u8> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1.contents
}

fn pem_text(der: &[u8]) -> String {
    let body = data_encoding::BASE64.encode(der);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
}

#[test]
fn a_certificate_stays_while_it_says_the_same_and_a_third_of_its_life_is_left() {
    let (authority, key) = (authority(), Key::generate().unwrap());
    let names = TlsName::defaults();
    let seen = Seen::read(&authority.issue("broker", Purpose::Server(&names), &key, DAY, *NOW).unwrap()).unwrap();
    assert!(seen.is_for(&key) && seen.is_signed_by(&authority));
    assert!(seen.serves(Purpose::Server(&names)) && !seen.serves(Purpose::Client));
    assert!(!seen.serves(Purpose::Server(&names[1..])));
    assert!(!seen.is_for(&Key::generate().unwrap()) && !seen.is_signed_by(&self::authority()));
    assert!(seen.is_fresh(*NOW) && seen.is_fresh(*NOW + DAY / 2));
    assert!(!seen.is_fresh(*NOW + DAY * 7 / 10) && !seen.is_fresh(*NOW + DAY * 2) && !seen.is_fresh(*NOW - DAY));
}

#[test]
fn names_of_servers_are_dns_names_and_addresses() {
    for (text, shown) in [("Broker", "broker"), ("*.example.com", "*.example.com"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1")] {
        assert_eq!(text.parse::<TlsName>().unwrap().to_string(), shown);
    }
    for text in ["", "a b", "a..b", "-a", "a*", "*", "a:4222", "é", "a\n", &"a".repeat(64)] {
        assert!(text.parse::<TlsName>().is_err(), "{text}");
    }
}
