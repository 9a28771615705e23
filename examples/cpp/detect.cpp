// Finds objects in a JPEG with an artifact that `flexdetr export --format openvino` wrote, and prints them as JSON; of
// a classifier's artifact the classes, most probable first.
//
//     detect ARTIFACT PICTURE [THRESHOLD|auto] [fp32|bf16]
//
// The graph takes the picture as it is: resizing, scaling, post-processing and the scaling of boxes are inside.

#include <turbojpeg.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <openvino/openvino.hpp>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// As much of JSON as metadata.json needs. Texts keep their escapes, so that they can be printed as they are.
struct Json {
    std::string text;               // of a text, number or word
    std::vector<std::string> keys;  // of an object, in the order of items
    std::vector<Json> items;

    const Json* find(const std::string& key) const {
        for (size_t i = 0; i < keys.size(); ++i)
            if (keys[i] == key) return &items[i];
        return nullptr;
    }
    const Json& at(const std::string& key) const {
        if (const Json* found = find(key)) return *found;
        throw std::runtime_error("metadata.json has no " + key);
    }
    static Json parse(std::sregex_iterator& word) {
        const auto open = [&word] {
            if (word == std::sregex_iterator()) throw std::runtime_error("metadata.json ends too early");
            return word->str() != "}" && word->str() != "]";
        };
        Json value;
        const std::string first = open() ? word->str() : "";
        value.text = first[0] == '"' ? word->str(1) : first;
        ++word;
        if (first != "{" && first != "[") return value;
        while (open()) {
            if (first == "{") value.keys.push_back(parse(word).text);
            value.items.push_back(parse(word));
        }
        ++word;
        return value;
    }
};

Json parse(const std::string& text) {
    static const std::regex words("\"((?:\\\\.|[^\"\\\\])*)\"|[{}\\[\\]]|[^\\s,:{}\\[\\]\"]+");
    std::sregex_iterator first(text.begin(), text.end(), words);
    return Json::parse(first);
}

struct Picture {
    int width = 0, height = 0;
    std::vector<unsigned char> rgb;
};

// Pixels as they are stored: a camera's note that the picture lies on its side (EXIF) is not followed.
Picture read_jpeg(const std::filesystem::path& path) {
    const std::string file = read_file(path);
    const auto* bytes = reinterpret_cast<const unsigned char*>(file.data());
    Picture one;
    int unused = 0;
    tjhandle decoder = tjInitDecompress();
    bool read = !tjDecompressHeader3(decoder, bytes, file.size(), &one.width, &one.height, &unused, &unused);
    one.rgb.resize(size_t(3) * one.width * one.height);
    read = read && !tjDecompress2(decoder, bytes, file.size(), one.rgb.data(), one.width, 0, one.height, TJPF_RGB, 0);
    tjDestroy(decoder);
    if (!read) throw std::runtime_error(path.string() + " cannot be read as a JPEG: " + tjGetErrorStr());
    return one;
}

// A classifier is shown the square in the middle, a share of the shorter side.
void keep_middle(Picture& one, double share) {
    const int side = std::max(1, int(std::nearbyint(std::min(one.width, one.height) * share)));
    const int left = (one.width - side) / 2, top = (one.height - side) / 2;
    for (int row = 0; row < side; ++row) {
        const auto from = one.rgb.begin() + 3 * (size_t(top + row) * one.width + left);
        std::copy(from, from + 3 * side, one.rgb.begin() + size_t(3) * row * side);
    }
    one.rgb.resize(size_t(3) * side * side);
    one.width = one.height = side;
}

void check(const Json& metadata, const std::filesystem::path& folder) {
    if (std::stoi(metadata.at("format_version").text) > 2 || metadata.at("format").text != "openvino" ||
        metadata.at("raw").text != "false" || metadata.at("input").at("resize").text != "inside")
        throw std::runtime_error(folder.string() + " is not what flexdetr export --format openvino writes by default");
    if (metadata.at("input").at("colour_order").text != "RGB")
        throw std::runtime_error(folder.string() + " takes pictures that are not RGB: this program reads three channels only");
    const Json& files = metadata.at("files");
    for (size_t i = 0; i < files.items.size(); ++i)
        if (std::to_string(std::filesystem::file_size(folder / files.keys[i])) != files.items[i].at("bytes").text)
            throw std::runtime_error(files.keys[i] + " is not what was exported: copy the folder again");
}

void detect(const std::filesystem::path& folder, const std::filesystem::path& file, std::string asked,
            const std::string& precision) {
    const Json metadata = parse(read_file(folder / "metadata.json"));
    check(metadata, folder);
    const Json &input = metadata.at("input"), &names = metadata.at("outputs").at("names");
    Picture picture = read_jpeg(file);
    const Json *task = metadata.find("task"), *middle = input.find("middle");
    if (middle && middle->text != "null") keep_middle(picture, std::stod(middle->text));
    if (asked.empty()) asked = task && task->text != "detect" ? "0" : "0.4";
    int64_t size[] = {picture.height, picture.width};
    const ov::Shape shape = {1, size_t(picture.height), size_t(picture.width), 3};

    ov::Core core;
    // Where bf16 passed the proof at the export, OpenVINO may choose it; else float32, unless told otherwise.
    const Json* bf16 = metadata.find("precisions") ? metadata.at("precisions").find("bf16") : nullptr;
    if (!precision.empty() || !bf16 || bf16->at("passed").text != "true")
        core.set_property("CPU", {{"INFERENCE_PRECISION_HINT", precision == "bf16" ? "bf16" : "f32"}});
    const std::string images = input.at("name").text, sizes = input.at("sizes").text;
    const auto model = core.read_model((folder / metadata.at("files").keys.at(0)).string());
    // For a fixed shape OpenVINO plans ahead, and int8 graphs are exact only then.
    model->reshape({{images, ov::PartialShape(shape)}, {sizes, ov::PartialShape{1, 2}}});
    ov::InferRequest request = core.compile_model(model, "CPU").create_infer_request();
    request.set_tensor(images, ov::Tensor(ov::element::u8, shape, picture.rgb.data()));
    request.set_tensor(sizes, ov::Tensor(ov::element::i64, {1, 2}, size));
    request.infer();
    const ov::Tensor scores = request.get_tensor(names.items.at(1).text);
    const auto* box = request.get_tensor(names.items.at(0).text).data<const float>();
    const auto* label = request.get_tensor(names.items.at(2).text).data<const int64_t>();
    const Json &stored = metadata.at("thresholds"), *usual = stored.find("default");
    if (asked == "auto" && stored.items.empty()) throw std::runtime_error(folder.string() + " carries no best thresholds");
    const char* before = "\n";
    std::cout << "[";
    for (size_t i = 0; i < scores.get_size(); ++i, box += 4) {
        const Json& found = metadata.at("classes").items.at(label[i]);
        const Json* own = stored.find(found.at("name").text);
        const float score = scores.data<const float>()[i];
        if (score < std::stof(asked != "auto" ? asked : own ? own->text : usual ? usual->text : "0.4")) continue;
        std::cout << before << "  {\"name\": \"" << found.at("name").text << "\", \"label\": " << found.at("id").text
                  << ", \"score\": " << score << ", \"box_xyxy\": [" << box[0] << ", " << box[1] << ", " << box[2]
                  << ", " << box[3] << "]}";
        before = ",\n";
    }
    std::cout << "\n]\n";
}

int main(int count, char** words) {
    if (count < 3) {
        std::cerr << "usage: detect ARTIFACT PICTURE [THRESHOLD|auto] [fp32|bf16]\n";
        return 2;
    }
    try {
        std::cout.precision(7);
        detect(words[1], words[2], count > 3 ? words[3] : "", count > 4 ? words[4] : "");
    } catch (const std::exception& error) {
        std::cerr << "Error: " << error.what() << "\n";
        return 1;
    }
}
