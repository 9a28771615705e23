// Finds objects in a JPEG with an artifact that `flexdetr export --format openvino` wrote, and prints them as JSON; of
// a classifier's artifact the classes, most probable first.
//     Detect ARTIFACT PICTURE [THRESHOLD|auto] [fp32|bf16]
// One file without packages: OpenVINO's C library and TurboJPEG are called directly. See README.md.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text.RegularExpressions;

static class Detect
{
    const string OV = "openvino_c", JPEG = "turbojpeg";

    [StructLayout(LayoutKind.Sequential)] struct Shape { public long Least, Most; public IntPtr Sides; }
    [StructLayout(LayoutKind.Sequential)] struct Property { public string Key, Value; }

    [DllImport(OV)] static extern int ov_core_create(out IntPtr core);
    [DllImport(OV)] static extern int ov_core_read_model(IntPtr core, byte[] path, byte[] weights, out IntPtr model);
    [DllImport(OV)] static extern int ov_model_reshape(IntPtr model, string[] names, Shape[] shapes, UIntPtr count);
    [DllImport(OV)] static extern int ov_partial_shape_create_static(long rank, long[] sides, out Shape made);
    [DllImport(OV)] static extern int ov_core_compile_model_props(
        IntPtr core, IntPtr model, string device, UIntPtr count, Property[] properties, out IntPtr compiled);
    [DllImport(OV)] static extern int ov_compiled_model_create_infer_request(IntPtr compiled, out IntPtr request);
    [DllImport(OV)] static extern int ov_infer_request_infer(IntPtr request);
    [DllImport(OV)] static extern int ov_infer_request_get_tensor(IntPtr request, string name, out IntPtr tensor);
    [DllImport(OV)] static extern int ov_tensor_data(IntPtr tensor, out IntPtr data);
    [DllImport(OV)] static extern int ov_tensor_get_size(IntPtr tensor, out UIntPtr count);
    [DllImport(OV)] static extern IntPtr ov_get_last_err_msg();
    [DllImport(JPEG)] static extern IntPtr tjInitDecompress();
    [DllImport(JPEG)] static extern int tjDecompressHeader3(
        IntPtr decoder, byte[] file, UIntPtr bytes, out int width, out int height, out int unused, out int colours);
    [DllImport(JPEG)] static extern int tjDecompress2(
        IntPtr decoder, byte[] file, UIntPtr bytes, byte[] rgb, int width, int pitch, int height, int format, int how);

    static Exception Refuse(string why) => new InvalidDataException(why);
    static int Check(int status) =>
        status == 0 ? status : throw Refuse("OpenVINO: " + Marshal.PtrToStringAnsi(ov_get_last_err_msg()));

    // As much of JSON as metadata.json needs: a list holds its items, an object keys and values by turns, and
    // everything else is its text. Texts keep their escapes, so that they can be printed as they are.
    static object Parse(Queue<Match> words)
    {
        if (words.Count == 0) throw Refuse("metadata.json ends too early");
        Match word = words.Dequeue();
        if (word.Groups[1].Success) return word.Groups[1].Value;
        if (word.Value == "}" || word.Value == "]") return null;
        if (word.Value != "{" && word.Value != "[") return word.Value;
        var items = new List<object>();
        for (object one = Parse(words); one != null; one = Parse(words)) items.Add(one);
        return items;
    }

    static T Find<T>(object from, string key, string below = null) where T : class
    {
        var items = (List<object>)from;
        for (int i = 0; i < items.Count; i += 2)
            if (key.Equals(items[i])) return below == null ? (T)items[i + 1] : Find<T>(items[i + 1], below);
        return null;
    }

    // Pixels as they are stored: a camera's note that the picture lies on its side (EXIF) is not followed.
    static byte[] ReadJpeg(string path, out int width, out int height)
    {
        byte[] file = File.ReadAllBytes(path);
        IntPtr decoder = tjInitDecompress();
        int failed = tjDecompressHeader3(decoder, file, (UIntPtr)file.Length, out width, out height, out _, out _);
        var rgb = new byte[3 * width * height];
        if (failed == 0) failed = tjDecompress2(decoder, file, (UIntPtr)file.Length, rgb, width, 0, height, 0, 0);
        if (failed != 0) throw Refuse(path + " cannot be read as a JPEG");
        return rgb;
    }

    // A classifier is shown the square in the middle, a share of the shorter side.
    static byte[] KeepMiddle(byte[] rgb, double share, ref int width, ref int height)
    {
        int side = Math.Max(1, (int)Math.Round(Math.Min(width, height) * share));
        int left = (width - side) / 2, top = (height - side) / 2;
        var kept = new byte[3 * side * side];
        for (int row = 0; row < side; row++)
            Buffer.BlockCopy(rgb, 3 * ((top + row) * width + left), kept, 3 * row * side, 3 * side);
        width = height = side;
        return kept;
    }

    // Where the values of an input or an output lie.
    static IntPtr Values(IntPtr request, object name, out UIntPtr count)
    {
        Check(ov_infer_request_get_tensor(request, (string)name, out IntPtr tensor));
        Check(ov_tensor_get_size(tensor, out count));
        Check(ov_tensor_data(tensor, out IntPtr data));
        return data;
    }

    static void Run(string[] given)
    {
        if (given.Length < 2) throw Refuse("usage: Detect ARTIFACT PICTURE [THRESHOLD|auto] [fp32|bf16]");
        string folder = given[0], precision = given.ElementAtOrDefault(3);
        string text = File.ReadAllText(Path.Combine(folder, "metadata.json"));
        const string Words = @"""((?:\\.|[^""\\])*)""|[{}\[\]]|[^\s,:{}\[\]""]+";
        object metadata = Parse(new Queue<Match>(Regex.Matches(text, Words).Cast<Match>()));
        if (int.Parse(Find<string>(metadata, "format_version")) > 2 || Find<string>(metadata, "format") != "openvino" ||
            Find<string>(metadata, "raw") != "false" || Find<string>(metadata, "input", "resize") != "inside")
            throw Refuse(folder + " is not what flexdetr export --format openvino writes by default");
        if (Find<string>(metadata, "input", "colour_order") != "RGB")
            throw Refuse(folder + " takes pictures that are not RGB: this program reads three channels only");
        var files = Find<List<object>>(metadata, "files");
        string[] paths = (from name in files.OfType<string>() select Path.Combine(folder, name)).ToArray();
        for (int i = 0; i < paths.Length; i++)
            if (Find<string>(files[2 * i + 1], "bytes") != new FileInfo(paths[i]).Length.ToString())
                throw Refuse(paths[i] + " is not what was exported: copy the folder again");
        byte[] rgb = ReadJpeg(given[1], out int width, out int height);
        string middle = Find<string>(metadata, "input", "middle") ?? "null";
        if (middle != "null") rgb = KeepMiddle(rgb, double.Parse(middle), ref width, ref height);
        string usual = (Find<string>(metadata, "task") ?? "detect") == "detect" ? "0.4" : "0";
        string asked = given.ElementAtOrDefault(2) ?? usual;
        byte[] model = System.Text.Encoding.UTF8.GetBytes(paths[0] + "\0");
        // Where bf16 passed the proof at the export, OpenVINO may choose it; else float32, unless told otherwise.
        var bf16 = Find<List<object>>(metadata, "precisions", "bf16");
        bool free = precision == null && bf16 != null && Find<string>(bf16, "passed") == "true";
        string hint = precision == "bf16" ? "bf16" : "f32";
        var wanted = new[] { new Property { Key = "INFERENCE_PRECISION_HINT", Value = hint } };
        string[] inputs = { Find<string>(metadata, "input", "name"), Find<string>(metadata, "input", "sizes") };
        Check(ov_core_create(out IntPtr core));
        Check(ov_core_read_model(core, model, null, out IntPtr graph));
        // For a fixed shape OpenVINO plans ahead, and int8 graphs are exact only then.
        Check(ov_partial_shape_create_static(4, new long[] { 1, height, width, 3 }, out Shape pixels));
        Check(ov_partial_shape_create_static(2, new long[] { 1, 2 }, out Shape sides));
        Check(ov_model_reshape(graph, inputs, new[] { pixels, sides }, (UIntPtr)2));
        Check(ov_core_compile_model_props(
            core, graph, "CPU", (UIntPtr)(free ? 0 : 1), wanted, out IntPtr compiled));
        Check(ov_compiled_model_create_infer_request(compiled, out IntPtr request));
        Marshal.Copy(rgb, 0, Values(request, inputs[0], out _), rgb.Length);
        Marshal.Copy(new long[] { height, width }, 0, Values(request, inputs[1], out _), 2);
        Check(ov_infer_request_infer(request));
        var names = Find<List<object>>(metadata, "outputs", "names");
        IntPtr answered = Values(request, names[1], out UIntPtr size);
        int count = (int)size;
        float[] scores = new float[count], boxes = new float[4 * count];
        var labels = new long[count];
        Marshal.Copy(answered, scores, 0, count);
        Marshal.Copy(Values(request, names[0], out _), boxes, 0, 4 * count);
        Marshal.Copy(Values(request, names[2], out _), labels, 0, count);
        if (asked == "auto" && Find<List<object>>(metadata, "thresholds").Count == 0)
            throw Refuse(folder + " carries no best thresholds");
        var lines = new List<string>();
        for (int i = 0; i < count; i++)
        {
            object found = Find<List<object>>(metadata, "classes")[(int)labels[i]];
            string name = Find<string>(found, "name"), id = Find<string>(found, "id");
            string own = Find<string>(metadata, "thresholds", name) ?? Find<string>(metadata, "thresholds", "default");
            if (scores[i] < float.Parse(asked == "auto" ? own ?? "0.4" : asked)) continue;
            string box = string.Join(", ", from side in boxes.Skip(4 * i).Take(4) select side.ToString("R"));
            lines.Add($"  {{\"name\": \"{name}\", \"label\": {id}, \"score\": {scores[i]:R}, \"box_xyxy\": [{box}]}}");
        }
        Console.WriteLine("[\n" + string.Join(",\n", lines) + "\n]");
    }

    static int Main(string[] words)
    {
        CultureInfo.CurrentCulture = CultureInfo.InvariantCulture;
        Console.OutputEncoding = new System.Text.UTF8Encoding(false);
        try { Run(words); return 0; }
        catch (Exception error) { Console.Error.WriteLine("Error: " + error.Message.Trim()); return 1; }
    }
}
