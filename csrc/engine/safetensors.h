#pragma once
// Hugging Face's safetensors: eight bytes of length, a JSON header, then the tensors' bytes.

#include <string>

#include "engine/mapped_file.h"
#include "engine/stored_tensor.h"

namespace fusedlm {

/// Adds the tensors of one file. Throws CorruptFile for a header that is damaged, ranges that overlap
/// or leave the file, a size that disagrees with dtype and shape, or a name that is there already.
void read_safetensors(std::shared_ptr<const MappedFile> file, StoredTensors& into);

/// Those of a folder: model.safetensors, or the shards that model.safetensors.index.json names; a
/// tensor that the index has and its shard has not, or the other way round, is CorruptFile.
StoredTensors read_safetensors_folder(const std::string& folder);

}  // namespace fusedlm
