// a of a product: rows of `depth` vec4f, batches one after the other.

/// Where a row begins.
alias Place = u32;

fn row_count() -> u32 { return params.m; }

fn place_of(row: u32, batch: u32) -> Place {
  return params.a_first + (batch * params.m + row) * params.depth;
}

fn a_of(place: Place, k: u32) -> vec4f {
  return select(vec4f(), a_at(place + k), k < params.depth);
}
