// One kernel of the table as a host library: FA_SOURCE is its source, FA_NAME its symbol.
#include FA_SOURCE

#include <utility>

namespace {

template <class... P, size_t... I>
void call(void (*kernel)(P...), void* const* bindings, const uint32_t* words,
          std::index_sequence<I...>) {
  constexpr size_t kBindings = sizeof...(P) - FA_WORD_COUNT;
  const auto argument = [&](auto index, auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if constexpr (decltype(index)::value < kBindings)
      return static_cast<T>(bindings[decltype(index)::value]);
    else
      return static_cast<T>(words[decltype(index)::value - kBindings]);
  };
  kernel(argument(std::integral_constant<size_t, I>{}, static_cast<P*>(nullptr))...);
}

template <class... P>
void call(void (*kernel)(P...), void* const* bindings, const uint32_t* words) {
  call(kernel, bindings, words, std::index_sequence_for<P...>{});
}

}  // namespace

// Gives the first error, or an empty string.
extern "C" const char* fa_double_launch(uint32_t blocks, int threads, uint32_t shared_bytes,
                                        void* const* bindings, const uint32_t* words) {
  static std::string error;
  error.clear();
  for (uint32_t i = 0; i < blocks && error.empty(); ++i)
    error = fa::machine::run_block(i, blocks, threads, shared_bytes,
                                   [&] { call(FA_NAME, bindings, words); });
  return error.c_str();
}
