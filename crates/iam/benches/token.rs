//! Checking a token: the target is under 20 µs.

use std::{collections::BTreeMap, sync::Arc};

use divan::Bencher;
use kah_api::{config::JwtSecret, time::GoDuration};
use kah_iam::{SystemClock, TokenType, Tokens};

fn main() {
    divan::main();
}

fn tokens() -> Tokens {
    Tokens::new(
        &JwtSecret::new("32 random characters in real life"),
        "kubesphere",
        true,
        GoDuration::from_secs(10),
        Arc::new(SystemClock::default()),
    )
}

fn issued(tokens: &Tokens) -> String {
    let life = GoDuration::from_secs(7200);
    tokens.issue("admin", TokenType::Access, &BTreeMap::new(), life)
}

#[divan::bench]
fn verify(bencher: Bencher) {
    let tokens = tokens();
    let token = issued(&tokens);
    bencher.bench(|| tokens.verify(divan::black_box(&token), &[TokenType::Access]));
}

/// What a flood of forged tokens costs.
#[divan::bench]
fn refuse(bencher: Bencher) {
    let tokens = tokens();
    let mut token = issued(&tokens);
    token.truncate(token.len() - 4);
    token.push_str("AAAA");
    bencher.bench(|| {
        tokens
            .verify(divan::black_box(&token), &[TokenType::Access])
            .is_err()
    });
}

#[divan::bench]
fn issue(bencher: Bencher) {
    let tokens = tokens();
    bencher.bench(|| issued(&tokens));
}
