#include "kernels/kv_codes_avx512.hpp"

#include "kernels/levels.hpp"

namespace dalsegno::avx512 {

DALSEGNO_KV_CODES

}  // namespace dalsegno::avx512
