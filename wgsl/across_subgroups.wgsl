// As across_workgroup.wgsl, by subgroups: each folds its own, then all fold what the subgroups hold, in their order. The
// whole workgroup shares one row (LANES = THREADS). Subgroups may have any size from 4 up, and nothing here asks for it:
// some drivers tell another one than they use.

struct Lane {
  @builtin(local_invocation_index) index: u32,
  @builtin(subgroup_invocation_id) place: u32,
  @builtin(subgroup_id) subgroup: u32,
  @builtin(num_subgroups) subgroups: u32,
}

var<workgroup> shares: array<Shared, SUBGROUPS>;

fn among(value: Shared, lane: Lane, largest: bool) -> Shared {
  workgroupBarrier(); // what was shared before has been read
  if (lane.place == 0u) { shares[lane.subgroup] = value; }
  workgroupBarrier();
  var all = shares[0];
  for (var s = 1u; s < lane.subgroups; s++) {
    all = select(all + shares[s], max(all, shares[s]), largest);
  }
  return all;
}

fn sum_across(value: Shared, lane: Lane) -> Shared { return among(subgroupAdd(value), lane, false); }
fn max_across(value: Shared, lane: Lane) -> Shared { return among(subgroupMax(value), lane, true); }
