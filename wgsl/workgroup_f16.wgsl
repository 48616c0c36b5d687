// sums += the block that lies in the tiles, its products taken and added in f16, two sums for each element of the
// result (the even and the odd steps, which GPUs compute at once), and only then added in f32: a block has 4·DEPTH
// steps, so a sum in f16 has 2·DEPTH terms. Operands are rounded to f16, and beyond 65504 both they and these sums
// overflow, so this is only for those who ask for it.

alias S = vec4<f16>;
alias Halves = array<vec2<f16>, 4>;

fn multiply(sums: ptr<function, array<array<vec4f, TN>, TM>>, id: vec3u) {
  var halves: array<array<Halves, TN>, TM>;
  for (var first = 0u; first < DEPTH; first += STEP) {
    /*unroll*/ for (var e = 0u; e < STEP; e++) {
      let d = first + e;
      var w: array<array<S, 4>, TN>;
      /*unroll*/ for (var j = 0u; j < TN; j++) {
        /*unroll*/ for (var c = 0u; c < 4u; c++) {
          w[j][c] = w_tile[d * COLUMNS + (j * 4u + c) * 16u + id.x];
        }
      }
      /*unroll*/ for (var i = 0u; i < TM; i++) {
        let a = a_tile[(id.y * TM + i) * DEPTH + d];
        /*unroll*/ for (var j = 0u; j < TN; j++) {
          /*unroll*/ for (var c = 0u; c < 4u; c++) {
            halves[i][j][c] = fma(a.xy, w[j][c].xy, fma(a.zw, w[j][c].zw, halves[i][j][c]));
          }
        }
      }
    }
  }
  /*unroll*/ for (var i = 0u; i < TM; i++) {
    /*unroll*/ for (var j = 0u; j < TN; j++) {
      /*unroll*/ for (var c = 0u; c < 4u; c++) {
        let pair = vec2f(halves[i][j][c]);
        (*sums)[i][j][c] += pair.x + pair.y;
      }
    }
  }
}
