// What kernels over strided views share.

/// i / d for i < 2³¹: division of whole numbers is done lane by lane on CPUs and in many steps on GPUs, so it is
/// estimated in f32, estimated again for the remainder, and put right by at most one.
fn divide(i: u32, d: u32) -> u32 {
  let a = i32(i);
  let b = i32(d);
  let inverse = 1.0 / f32(b);
  var q = i32(f32(a) * inverse);
  q += i32(floor(f32(a - q * b) * inverse));
  let rest = a - q * b;
  return u32(q + select(0, 1, rest >= b) - select(0, 1, rest < 0));
}
