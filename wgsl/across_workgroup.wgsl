// `sum_across`, `max_across`: what the LANES invocations that share a row hold, folded and told to all of them, through
// workgroup memory. A workgroup has THREADS invocations; rows of LANES = 1 have nothing to share.

struct Lane {
  @builtin(local_invocation_index) index: u32,
}

var<workgroup> shares: array<Shared, THREADS>;

fn among(value: Shared, lane: Lane, largest: bool) -> Shared {
  if (LANES == 1u) { return value; }
  workgroupBarrier(); // what was shared before has been read
  shares[lane.index] = value;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane.index % LANES < half) {
      let a = shares[lane.index];
      let b = shares[lane.index + half];
      shares[lane.index] = select(a + b, max(a, b), largest);
    }
  }
  workgroupBarrier();
  return shares[lane.index - lane.index % LANES];
}

fn sum_across(value: Shared, lane: Lane) -> Shared { return among(value, lane, false); }
fn max_across(value: Shared, lane: Lane) -> Shared { return among(value, lane, true); }
