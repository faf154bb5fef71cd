//! What each op means.

use super::{Exact, Values, Weight};
use crate::hal::{Batch, Bindings, PAGE};
use crate::op::{Activation, Attention, Op, Pairing, Program, Rope, ValueId};

/// Products below which starting a thread takes longer than they do.
const WORTH_SHARING: usize = 64 << 10;

impl Exact {
    /// Runs one op on all rows.
    pub(super) fn run(&mut self, op: &Op, program: &Program, bind: &Bindings, batch: &Batch, values: &mut Values) {
        let at = |v: ValueId| v.0 as usize;
        let width = |v: ValueId| program.value(v).width;
        match *op {
            Op::Embed { table, out } => {
                let table = self.bound(bind, table);
                let w = width(out);
                for (row, y) in batch.rows.iter().zip(values[at(out)].chunks_exact_mut(w)) {
                    table.row(row.token as usize, y);
                }
            }
            Op::SelectOutputs { x, out } => {
                let w = width(x);
                let picked = batch.rows.iter().zip(values[at(x)].chunks_exact(w)).filter(|(r, _)| r.output);
                values[at(out)] = picked.flat_map(|(_, x)| x.to_vec()).collect();
            }
            Op::RmsNorm { x, weight, group, eps, out } => {
                let weight = self.bound(bind, weight).vector();
                values[at(out)] = values[at(x)].chunks_exact(group).flat_map(|x| rms_norm(x, &weight, eps)).collect();
            }
            Op::MatMul { x, weight, bias, out } => {
                let weight = self.bound(bind, weight);
                let mut y = self.mat_mul(weight, 0, &values[at(x)]);
                if let Some(bias) = bias {
                    let bias = self.bound(bind, bias).vector();
                    y.iter_mut().zip(bias.iter().cycle()).for_each(|(y, b)| *y += b);
                }
                values[at(out)] = y;
            }
            Op::Rope { x, head_dim, rope, factors, out } => {
                let factors = factors.map(|f| self.bound(bind, f).vector());
                let w = width(x);
                let rows = batch.rows.iter().zip(values[at(x)].chunks_exact(w));
                let turn = |pos, head: &[f32]| rotate(head, &rope, factors.as_deref(), pos);
                values[at(out)] = rows
                    .flat_map(|(r, x)| x.chunks_exact(head_dim).flat_map(|h| turn(r.pos, h)).collect::<Vec<_>>())
                    .collect();
            }
            Op::KvAppend { k, v } => self.kv_append(bind, batch, &values[at(k)], &values[at(v)]),
            Op::Attend { q, attention, out } => {
                values[at(out)] = self.attend(bind, batch, &attention, &values[at(q)]);
            }
            Op::Add { a, b, out } => {
                values[at(out)] = values[at(a)].iter().zip(&values[at(b)]).map(|(a, b)| a + b).collect();
            }
            Op::Glu { gate, up, act, out } => {
                let f = |g: f32| match act {
                    Activation::Silu => f64::from(g) / (1.0 + (-f64::from(g)).exp()),
                };
                let pairs = values[at(gate)].iter().zip(&values[at(up)]);
                values[at(out)] = pairs.map(|(&g, &u)| (f(g) * f64::from(u)) as f32).collect();
            }
            Op::Route { logits, k, normalise, ids, weights } => {
                let chosen = values[at(logits)].chunks_exact(width(logits)).map(|l| route(l, k, normalise));
                let (i, w): (Vec<_>, Vec<_>) = chosen.flatten().unzip();
                values[at(ids)] = i;
                values[at(weights)] = w;
            }
            Op::ExpertMatMul { x, per_slot, ids, weight, out } => {
                let weight = self.bound(bind, weight);
                let k = width(ids);
                let slots = values[at(ids)].iter().enumerate();
                let y = slots.flat_map(|(slot, &e)| {
                    let input = if per_slot { slot } else { slot / k };
                    let x = &values[at(x)][input * weight.cols..(input + 1) * weight.cols];
                    self.mat_mul(weight, e as usize, x)
                });
                values[at(out)] = y.collect();
            }
            Op::ExpertSum { x, weights, out } => {
                let (k, w) = (width(weights), width(out));
                let rows = values[at(x)].chunks_exact(k * w).zip(values[at(weights)].chunks_exact(k));
                let sum =
                    |x: &[f32], p: &[f32], c: usize| (0..k).map(|j| f64::from(x[j * w + c]) * f64::from(p[j])).sum();
                let y = rows.flat_map(|(x, p)| {
                    (0..w)
                        .map(|c| {
                            let s: f64 = sum(x, p, c);
                            s as f32
                        })
                        .collect::<Vec<_>>()
                });
                values[at(out)] = y.collect();
            }
        }
    }

    /// `[n, rows]` from `[n, cols]`: every row of one expert's matrix with every row of `x`, summed in float64.
    fn mat_mul(&self, weight: &Weight, expert: usize, x: &[f32]) -> Vec<f32> {
        let (cols, rows) = (weight.cols, weight.rows);
        let n = x.len() / cols;
        if n == 0 {
            return vec![];
        }
        let mut by_weight_row = vec![0f32; n * rows];
        let part = |first: usize, out: &mut [f32]| {
            let mut w = vec![0f32; cols];
            for (i, out) in out.chunks_exact_mut(n).enumerate() {
                weight.row(expert * rows + first + i, &mut w);
                for (y, x) in out.iter_mut().zip(x.chunks_exact(cols)) {
                    *y = dot(&w, x) as f32;
                }
            }
        };
        if n * rows * cols < WORTH_SHARING || self.threads == 1 {
            part(0, &mut by_weight_row);
        } else {
            let share = rows.div_ceil(self.threads);
            std::thread::scope(|scope| {
                for (t, out) in by_weight_row.chunks_mut(share * n).enumerate() {
                    scope.spawn(move || part(t * share, out));
                }
            });
        }
        (0..n * rows).map(|i| by_weight_row[i % rows * n + i / rows]).collect()
    }

    fn kv_append(&mut self, bind: &Bindings, batch: &Batch, k: &[f32], v: &[f32]) {
        let id = bind.layer.expect("a program with state is bound to a layer");
        let pages = &mut self.kv[id.group];
        let l = pages.layer(id.layer);
        let rows = k.chunks_exact(l.kv_heads * l.head_dim).zip(v.chunks_exact(l.kv_heads * l.v_dim));
        for (row, (k, v)) in batch.rows.iter().zip(rows) {
            let (page, slot) = find(batch, row.seq, id.group, row.pos);
            for (h, (k, v)) in k.chunks_exact(l.head_dim).zip(v.chunks_exact(l.v_dim)).enumerate() {
                pages.store(id.layer, page, slot, h, k, v);
            }
        }
    }

    fn attend(&self, bind: &Bindings, batch: &Batch, a: &Attention, q: &[f32]) -> Vec<f32> {
        let id = bind.layer.expect("a program with state is bound to a layer");
        let pages = &self.kv[id.group];
        let mut out = Vec::with_capacity(batch.rows.len() * a.heads * a.v_dim);
        for (row, q) in batch.rows.iter().zip(q.chunks_exact(a.heads * a.head_dim)) {
            let first = a.window.map_or(0, |w| (row.pos + 1).saturating_sub(w));
            for (head, q) in q.chunks_exact(a.head_dim).enumerate() {
                let kv_head = head / (a.heads / a.kv_heads);
                let (mut k, mut v) = (vec![0f32; a.head_dim], vec![0f32; a.v_dim]);
                let mut scores = vec![];
                let mut seen = vec![];
                for pos in first..=row.pos {
                    let (page, slot) = find(batch, row.seq, id.group, pos);
                    pages.load(id.layer, page, slot, kv_head, &mut k, &mut v);
                    scores.push(dot(q, &k) * f64::from(a.scale));
                    seen.push(v.clone());
                }
                let p = softmax(&scores);
                out.extend(
                    (0..a.v_dim).map(|c| p.iter().zip(&seen).map(|(p, v)| p * f64::from(v[c])).sum::<f64>() as f32),
                );
            }
        }
        out
    }
}

/// The page and the place in it of a position.
fn find(batch: &Batch, seq: u32, group: usize, pos: u32) -> (u32, usize) {
    (batch.tables[seq as usize][group][pos as usize / PAGE], pos as usize % PAGE)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&x, &w)| (f64::from(x) * scale * f64::from(w)) as f32).collect()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// Turns one head by its position's angles.
fn rotate(head: &[f32], rope: &Rope, factors: Option<&[f32]>, pos: u32) -> Vec<f32> {
    let mut out = head.to_vec();
    let half = rope.dims / 2;
    for i in 0..half {
        let (sin, cos) = rope.angle(pos, i, factors.map_or(1.0, |f| f[i])).sin_cos();
        let m = f64::from(rope.magnitude());
        let (a, b) = match rope.pairing {
            Pairing::Interleaved => (2 * i, 2 * i + 1),
            Pairing::HalfSplit => (i, i + half),
        };
        let (x, y) = (f64::from(head[a]), f64::from(head[b]));
        out[a] = ((x * cos - y * sin) * m) as f32;
        out[b] = ((x * sin + y * cos) * m) as f32;
    }
    out
}

/// The chosen experts and their weights, largest first; equal logits go to the lower index. NaN sorts last.
fn route(logits: &[f32], k: usize, normalise: bool) -> Vec<(f32, f32)> {
    let p = softmax(&logits.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    let key = |i: &usize| if p[*i].is_nan() { f64::NEG_INFINITY } else { p[*i] };
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| key(b).total_cmp(&key(a)));
    order.truncate(k);
    let sum: f64 = if normalise { order.iter().map(|&i| p[i]).sum() } else { 1.0 };
    order.into_iter().map(|i| (i as f32, (p[i] / sum) as f32)).collect()
}
