// The places in the source where threads wait, and which of them a mutation test leaves out.
#pragma once

namespace reformer::cuda::emulation {

// A place in the source: of a barrier, a wait, a collective.
struct Site {
  const char* file;
  int line;
};

// Whether the barrier or wait at this place is to be left out. Notes that it was met.
bool is_omitted(Site site);

}  // namespace reformer::cuda::emulation
