//! The chain against the reference distributions of `scripts/goldens/samplers.py` (float64 numpy and llama.cpp agree
//! on each), the draw against its distribution, and the edges.

use super::*;
use serde_json::Value;

const GOLDEN: &str = include_str!("../../tests/goldens/sampler/chain.json");

fn sampler(params: Params, vocab: usize) -> Sampler {
    Sampler::new(Params { seed: Some(1), ..params }, vocab).unwrap()
}

/// All off: the draw is from the softmax.
fn plain() -> Params {
    Params { temperature: 1.0, top_k: 0, top_p: 1.0, ..Params::default() }
}

/// What may be drawn, most probable first.
fn distribution(s: &mut Sampler, logits: &[f32]) -> Vec<(u32, f64)> {
    let mut logits = logits.to_vec();
    s.adjust(&mut logits);
    s.filter(&logits).unwrap();
    let max = s.candidates.max();
    let total = s.candidates.total(max);
    let n = s.candidates.len();
    s.candidates.head(n).iter().map(|c| (c.id, Candidates::weight(c, max) / total)).collect()
}

fn params_of(case: &Value) -> Params {
    let number = |key: &str, default: f32| case[key].as_f64().map_or(default, |x| x as f32);
    let bias = case["logit_bias"].as_array().map_or(&[][..], Vec::as_slice);
    Params {
        temperature: number("temperature", 1.0),
        top_k: number("top_k", 0.0) as u32,
        top_p: number("top_p", 1.0),
        min_p: number("min_p", 0.0),
        typical_p: number("typical_p", 1.0),
        repetition_penalty: number("repetition_penalty", 1.0),
        presence_penalty: number("presence_penalty", 0.0),
        frequency_penalty: number("frequency_penalty", 0.0),
        repeat_last_n: number("repeat_last_n", 64.0) as i32,
        logit_bias: bias.iter().map(|b| (b[0].as_u64().unwrap() as u32, b[1].as_f64().unwrap() as f32)).collect(),
        seed: None,
    }
}

/// The large vocabulary of the script, from the same integer generator.
fn large() -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let u = state >> 40;
        if u.is_multiple_of(97) { 16.0 + (u % 1021) as f32 / 64.0 } else { (u % 4096) as f32 / 256.0 }
    };
    (0..150_000).map(next).collect()
}

#[test]
fn every_stage_agrees_with_the_reference_distributions() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let float = |x: &Value| x.as_f64().map_or(f32::NEG_INFINITY, |x| x as f32);
    let sets = golden["logits"].as_array().unwrap();
    let sets: Vec<Vec<f32>> = sets.iter().map(|s| s.as_array().unwrap().iter().map(float).collect()).collect();
    let large = large();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 150);
    for case in cases {
        let logits = usize::try_from(case["logits"].as_i64().unwrap()).map_or(&large, |i| &sets[i]);
        let mut s = sampler(params_of(case), logits.len());
        let history = golden["history"].as_array().unwrap();
        history.iter().for_each(|t| s.accept(t.as_u64().unwrap() as u32));
        let got = distribution(&mut s, logits);
        let (ids, p) = (case["ids"].as_array().unwrap(), case["p"].as_array().unwrap());
        assert_eq!(got.len() as u64, case["count"].as_u64().unwrap_or(ids.len() as u64), "{case}");
        for ((&(id, q), want_id), want) in got.iter().zip(ids).zip(p) {
            assert_eq!(u64::from(id), want_id.as_u64().unwrap(), "{case}\n{got:?}");
            let want = want.as_f64().unwrap();
            // float32 logits after the temperature: 2^-24 of up to 10^4.
            assert!((q - want).abs() <= 1e-6 + 1e-5 * want, "{case}\n{got:?}");
        }
    }
}

#[test]
fn the_table_has_llama_cpp_s_order() {
    let names: Vec<&str> = stages::CHAIN.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["top_k", "typical_p", "top_p", "min_p", "temperature"]);
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0, 0.0, 2.5, -1.0, 1.5, f32::NEG_INFINITY, 0.5, 2.0];
    let params = Params { temperature: 0.8, top_k: 6, ..plain() };
    let mut s = sampler(params, logits.len());
    let want = distribution(&mut s, &logits);
    let (n, mut counts) = (40_000, [0u32; 8]);
    for _ in 0..n {
        counts[s.sample(&mut logits.clone()).unwrap() as usize] += 1;
    }
    let chi2: f64 = want.iter().map(|&(id, p)| (f64::from(counts[id as usize]) / n as f64 - p).powi(2) / p).sum();
    let chi2 = chi2 * n as f64;
    assert!(chi2 < 20.5, "chi-square {chi2} of 5 degrees of freedom: p is below 0.001");
    let drawn: u32 = want.iter().map(|&(id, _)| counts[id as usize]).sum();
    assert_eq!(drawn, n, "a token outside the distribution was drawn");
}

#[test]
fn a_seed_gives_the_same_tokens() {
    let logits: Vec<f32> = (0..100).map(|i| (i * 37 % 101) as f32 / 20.0).collect();
    let run = |seed| {
        let mut s = Sampler::new(Params { seed, ..plain() }, 100).unwrap();
        (0..50).map(|_| s.sample(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(Some(5)), run(Some(5)));
    assert_ne!(run(Some(5)), run(Some(6)));
    assert_ne!(run(None), run(None));
    let drawn = Sampler::new(plain(), 100).unwrap().seed();
    assert_eq!(run(Some(drawn)), run(Some(drawn)));
}

#[test]
fn greedy_takes_the_largest_and_of_equals_the_first() {
    let mut s = sampler(Params { temperature: 0.0, ..Params::default() }, 5);
    assert_eq!(s.sample(&mut [0.0, 3.0, 1.0, 3.0, 2.0]).unwrap(), 1);
    assert_eq!(s.sample(&mut [-3.0, f32::NEG_INFINITY, -2.0, -3.0, -2.0]).unwrap(), 2);
    // Through the whole chain too.
    let mut s = sampler(Params { temperature: 0.0, typical_p: 0.999, ..Params::default() }, 5);
    assert_eq!(s.sample(&mut [0.0, 3.0, 1.0, 3.0, 2.0]).unwrap(), 1);
}

#[test]
fn penalties_see_what_was_accepted() {
    let params = Params { temperature: 0.0, presence_penalty: 1.0, repeat_last_n: 2, ..Params::default() };
    let mut s = sampler(params, 3);
    let mut next = || {
        let token = s.sample(&mut [2.0, 1.5, 1.2]).unwrap();
        s.accept(token);
        token
    };
    assert_eq!([next(), next(), next(), next()], [0, 1, 2, 0]);
}

#[test]
fn broken_logits_are_errors_that_name_the_token() {
    for temperature in [0.0, 0.7] {
        let mut s = sampler(Params { temperature, ..Params::default() }, 3);
        let mut message = |logits: &mut [f32]| s.sample(logits).unwrap_err().to_string();
        assert!(message(&mut [0.0, 1.0, f32::NAN]).contains("NaN as the logit of token 2"));
        assert!(message(&mut [0.0, f32::INFINITY, 0.0]).contains("inf as the logit of token 1"));
        assert!(message(&mut [f32::NEG_INFINITY; 3]).contains("no token can be chosen"));
        assert!(message(&mut [0.0; 4]).contains("4 logits for a vocabulary of 3"));
    }
}

#[test]
fn extremes_are_well_defined() {
    let logits = [1.0e30, -1.0e30, 0.0, 1.0e30];
    let tiny = Params { temperature: f32::MIN_POSITIVE, ..plain() };
    assert_eq!(distribution(&mut sampler(tiny, 4), &logits)[..2], [(0, 0.5), (3, 0.5)]);
    let huge = Params { temperature: f32::MAX, ..plain() };
    assert!(distribution(&mut sampler(huge, 3), &[5.0, 0.0, -5.0]).iter().all(|d| (d.1 - 1.0 / 3.0).abs() < 1e-6));
    let one = Params { top_p: 0.0, typical_p: 0.0, min_p: 1.0, ..plain() };
    assert_eq!(distribution(&mut sampler(one, 2), &[0.0, 1.0]).len(), 1);
    assert_eq!(distribution(&mut sampler(plain(), 1), &[7.0]), [(0, 1.0)]);
    // Probabilities that underflow to zero do not make NaN entropies.
    let typical = Params { typical_p: 0.9, ..plain() };
    assert_eq!(distribution(&mut sampler(typical, 3), &[0.0, -2000.0, -3000.0])[0].0, 0);
    // A ban through the bias holds, also when it is the best token.
    let ban = Params { logit_bias: vec![(3, f32::NEG_INFINITY), (0, f32::NEG_INFINITY)], ..plain() };
    let ids: Vec<u32> = distribution(&mut sampler(ban, 4), &[9.0, 1.0, 2.0, 9.0]).iter().map(|d| d.0).collect();
    assert_eq!(ids, [2, 1]);
}

#[test]
fn parameters_out_of_range_are_named() {
    type Change = fn(&mut Params);
    let cases: &[(&str, Change)] = &[
        ("temperature is -0.1; it must be a finite number, 0 or more", |p| p.temperature = -0.1),
        ("temperature is NaN", |p| p.temperature = f32::NAN),
        ("temperature is inf", |p| p.temperature = f32::INFINITY),
        ("top_p is 1.5; it must be from 0 to 1", |p| p.top_p = 1.5),
        ("min_p is -1; it must be from 0 to 1", |p| p.min_p = -1.0),
        ("typical_p is NaN", |p| p.typical_p = f32::NAN),
        ("repetition_penalty is 0; it must be from 0.01 to 100", |p| p.repetition_penalty = 0.0),
        ("presence_penalty is 101; it must be from -100 to 100", |p| p.presence_penalty = 101.0),
        ("frequency_penalty is -inf", |p| p.frequency_penalty = f32::NEG_INFINITY),
        ("repeat_last_n is -2; it must be -1 (all), 0 (none) or more", |p| p.repeat_last_n = -2),
        ("logit_bias names token 10; the vocabulary has 10", |p| p.logit_bias = vec![(10, 1.0)]),
        ("logit_bias is inf; it must be a finite number or -inf", |p| p.logit_bias = vec![(1, f32::INFINITY)]),
    ];
    for (want, change) in cases {
        let mut params = Params::default();
        change(&mut params);
        let Err(e @ Error::Field { .. }) = Sampler::new(params, 10) else { panic!("{want}: accepted") };
        let message = e.to_string();
        assert!(message.starts_with(want), "{message}");
    }
}
