"""Caffe's messages: which fields each has, their numbers, types and defaults (Caffe 1.0).

A net definition, a weight file, a mean image and a solver state are all protocol buffer messages.
The table below describes them in a small notation of ours; `descriptor("ConvolutionParameter")`
and `message_class("NetParameter")` give protobuf's own objects made from it.

The notation, one message a paragraph, entries separated by `;`:

    Message: TYPE NAME NUMBER            an optional field
             TYPE* NAME NUMBER           a repeated one (`packed` after it: numbers in one run)
             TYPE! NAME NUMBER           a required one
             TYPE NAME NUMBER = DEFAULT  the value of an absent field
             enum NAME A B=4 C           a named set of values, counted on from 0
"""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message as ProtoMessage

PACKAGE = "caffe"

_TABLE = """
*: enum Phase TRAIN TEST

BlobShape: int64* dim 1 packed
BlobProto: int32 num 1 = 0; int32 channels 2 = 0; int32 height 3 = 0; int32 width 4 = 0;
    float* data 5 packed; float* diff 6 packed; BlobShape shape 7;
    double* double_data 8 packed; double* double_diff 9 packed
BlobProtoVector: BlobProto* blobs 1
Datum: int32 channels 1; int32 height 2; int32 width 3; bytes data 4; int32 label 5;
    float* float_data 6; bool encoded 7 = false
FillerParameter: enum VarianceNorm FAN_IN FAN_OUT AVERAGE; string type 1 = constant;
    float value 2 = 0; float min 3 = 0; float max 4 = 1; float mean 5 = 0; float std 6 = 1;
    int32 sparse 7 = -1; VarianceNorm variance_norm 8 = FAN_IN

NetParameter: string name 1; V1LayerParameter* layers 2; string* input 3; int32* input_dim 4;
    bool force_backward 5 = false; NetState state 6; bool debug_info 7 = false;
    BlobShape* input_shape 8; LayerParameter* layer 100
NetState: Phase phase 1 = TEST; int32 level 2 = 0; string* stage 3
NetStateRule: Phase phase 1; int32 min_level 2; int32 max_level 3; string* stage 4;
    string* not_stage 5
ParamSpec: enum DimCheckMode STRICT PERMISSIVE; string name 1; DimCheckMode share_mode 2;
    float lr_mult 3 = 1; float decay_mult 4 = 1
SolverParameter: enum SnapshotFormat HDF5 BINARYPROTO; enum SolverMode CPU GPU;
    enum SolverType SGD NESTEROV ADAGRAD RMSPROP ADADELTA ADAM;
    string train_net 1; string* test_net 2; int32* test_iter 3; int32 test_interval 4 = 0;
    float base_lr 5; int32 display 6; int32 max_iter 7; string lr_policy 8; float gamma 9;
    float power 10; float momentum 11; float weight_decay 12; int32 stepsize 13;
    int32 snapshot 14 = 0; string snapshot_prefix 15; bool snapshot_diff 16 = false;
    SolverMode solver_mode 17 = GPU; int32 device_id 18 = 0; bool test_compute_loss 19 = false;
    int64 random_seed 20 = -1; NetParameter train_net_param 21; NetParameter* test_net_param 22;
    bool debug_info 23 = false; string net 24; NetParameter net_param 25; NetState train_state 26;
    NetState* test_state 27; bool snapshot_after_train 28 = true;
    string regularization_type 29 = L2; SolverType solver_type 30 = SGD; float delta 31 = 1e-8;
    bool test_initialization 32 = true; int32 average_loss 33 = 1; int32* stepvalue 34;
    float clip_gradients 35 = -1; int32 iter_size 36 = 1;
    SnapshotFormat snapshot_format 37 = BINARYPROTO; float rms_decay 38 = 0.99;
    float momentum2 39 = 0.999; string type 40 = SGD; bool layer_wise_reduce 41 = true;
    string* weights 42
SolverState: int32 iter 1; string learned_net 2; BlobProto* history 3; int32 current_step 4 = 0

LayerParameter: string name 1; string type 2; string* bottom 3; string* top 4;
    float* loss_weight 5; ParamSpec* param 6; BlobProto* blobs 7; NetStateRule* include 8;
    NetStateRule* exclude 9; Phase phase 10; bool* propagate_down 11;
    TransformationParameter transform_param 100; LossParameter loss_param 101;
    AccuracyParameter accuracy_param 102; ArgMaxParameter argmax_param 103;
    ConcatParameter concat_param 104; ContrastiveLossParameter contrastive_loss_param 105;
    ConvolutionParameter convolution_param 106; DataParameter data_param 107;
    DropoutParameter dropout_param 108; DummyDataParameter dummy_data_param 109;
    EltwiseParameter eltwise_param 110; ExpParameter exp_param 111;
    HDF5DataParameter hdf5_data_param 112; HDF5OutputParameter hdf5_output_param 113;
    HingeLossParameter hinge_loss_param 114; ImageDataParameter image_data_param 115;
    InfogainLossParameter infogain_loss_param 116; InnerProductParameter inner_product_param 117;
    LRNParameter lrn_param 118; MemoryDataParameter memory_data_param 119;
    MVNParameter mvn_param 120; PoolingParameter pooling_param 121; PowerParameter power_param 122;
    ReLUParameter relu_param 123; SigmoidParameter sigmoid_param 124;
    SoftmaxParameter softmax_param 125; SliceParameter slice_param 126;
    TanHParameter tanh_param 127; ThresholdParameter threshold_param 128;
    WindowDataParameter window_data_param 129;
    PythonParameter python_param 130; PReLUParameter prelu_param 131; SPPParameter spp_param 132;
    ReshapeParameter reshape_param 133; LogParameter log_param 134;
    FlattenParameter flatten_param 135; ReductionParameter reduction_param 136;
    EmbedParameter embed_param 137; TileParameter tile_param 138;
    BatchNormParameter batch_norm_param 139; ELUParameter elu_param 140;
    BiasParameter bias_param 141; ScaleParameter scale_param 142;
    InputParameter input_param 143; CropParameter crop_param 144;
    ParameterParameter parameter_param 145; RecurrentParameter recurrent_param 146;
    SwishParameter swish_param 147; ClipParameter clip_param 148

AccuracyParameter: uint32 top_k 1 = 1; int32 axis 2 = 1; int32 ignore_label 3
ArgMaxParameter: bool out_max_val 1 = false; uint32 top_k 2 = 1; int32 axis 3
BatchNormParameter: bool use_global_stats 1; float moving_average_fraction 2 = 0.999;
    float eps 3 = 1e-5
BiasParameter: int32 axis 1 = 1; int32 num_axes 2 = 1; FillerParameter filler 3
ClipParameter: float! min 1; float! max 2
ConcatParameter: uint32 concat_dim 1 = 1; int32 axis 2 = 1
ContrastiveLossParameter: float margin 1 = 1; bool legacy_version 2 = false
ConvolutionParameter: enum Engine DEFAULT CAFFE CUDNN; uint32 num_output 1;
    bool bias_term 2 = true; uint32* pad 3; uint32* kernel_size 4; uint32 group 5 = 1;
    uint32* stride 6; FillerParameter weight_filler 7; FillerParameter bias_filler 8;
    uint32 pad_h 9 = 0; uint32 pad_w 10 = 0; uint32 kernel_h 11; uint32 kernel_w 12;
    uint32 stride_h 13; uint32 stride_w 14; Engine engine 15 = DEFAULT; int32 axis 16 = 1;
    bool force_nd_im2col 17 = false; uint32* dilation 18
CropParameter: int32 axis 1 = 2; uint32* offset 2
DataParameter: enum DB LEVELDB LMDB; string source 1; float scale 2 = 1; string mean_file 3;
    uint32 batch_size 4; uint32 crop_size 5 = 0; bool mirror 6 = false; uint32 rand_skip 7 = 0;
    DB backend 8 = LEVELDB; bool force_encoded_color 9 = false; uint32 prefetch 10 = 4
DropoutParameter: float dropout_ratio 1 = 0.5
DummyDataParameter: FillerParameter* data_filler 1; uint32* num 2; uint32* channels 3;
    uint32* height 4; uint32* width 5; BlobShape* shape 6
ELUParameter: float alpha 1 = 1
EltwiseParameter: enum EltwiseOp PROD SUM MAX; EltwiseOp operation 1 = SUM; float* coeff 2;
    bool stable_prod_grad 3 = true
EmbedParameter: uint32 num_output 1; uint32 input_dim 2; bool bias_term 3 = true;
    FillerParameter weight_filler 4; FillerParameter bias_filler 5
ExpParameter: float base 1 = -1; float scale 2 = 1; float shift 3 = 0
FlattenParameter: int32 axis 1 = 1; int32 end_axis 2 = -1
HDF5DataParameter: string source 1; uint32 batch_size 2; bool shuffle 3 = false
HDF5OutputParameter: string file_name 1
HingeLossParameter: enum Norm L1=1 L2=2; Norm norm 1 = L1
ImageDataParameter: string source 1; float scale 2 = 1; string mean_file 3;
    uint32 batch_size 4 = 1; uint32 crop_size 5 = 0; bool mirror 6 = false;
    uint32 rand_skip 7 = 0; bool shuffle 8 = false; uint32 new_height 9 = 0;
    uint32 new_width 10 = 0; bool is_color 11 = true; string root_folder 12 =
InfogainLossParameter: string source 1; int32 axis 2 = 1
InnerProductParameter: uint32 num_output 1; bool bias_term 2 = true;
    FillerParameter weight_filler 3; FillerParameter bias_filler 4; int32 axis 5 = 1;
    bool transpose 6 = false
InputParameter: BlobShape* shape 1
LRNParameter: enum NormRegion ACROSS_CHANNELS WITHIN_CHANNEL; enum Engine DEFAULT CAFFE CUDNN;
    uint32 local_size 1 = 5; float alpha 2 = 1; float beta 3 = 0.75;
    NormRegion norm_region 4 = ACROSS_CHANNELS; float k 5 = 1; Engine engine 6 = DEFAULT
LogParameter: float base 1 = -1; float scale 2 = 1; float shift 3 = 0
LossParameter: enum NormalizationMode FULL VALID BATCH_SIZE NONE; int32 ignore_label 1;
    bool normalize 2; NormalizationMode normalization 3 = VALID
MVNParameter: bool normalize_variance 1 = true; bool across_channels 2 = false;
    float eps 3 = 1e-9
MemoryDataParameter: uint32 batch_size 1; uint32 channels 2; uint32 height 3; uint32 width 4
PReLUParameter: FillerParameter filler 1; bool channel_shared 2 = false
ParameterParameter: BlobShape shape 1
PoolingParameter: enum PoolMethod MAX AVE STOCHASTIC; enum Engine DEFAULT CAFFE CUDNN;
    enum RoundMode CEIL FLOOR; PoolMethod pool 1 = MAX; uint32 kernel_size 2;
    uint32 stride 3 = 1; uint32 pad 4 = 0; uint32 kernel_h 5; uint32 kernel_w 6;
    uint32 stride_h 7; uint32 stride_w 8; uint32 pad_h 9 = 0; uint32 pad_w 10 = 0;
    Engine engine 11 = DEFAULT; bool global_pooling 12 = false; RoundMode round_mode 13 = CEIL
PowerParameter: float power 1 = 1; float scale 2 = 1; float shift 3 = 0
PythonParameter: string module 1; string layer 2; string param_str 3 = ;
    bool share_in_parallel 4 = false
ReLUParameter: enum Engine DEFAULT CAFFE CUDNN; float negative_slope 1 = 0;
    Engine engine 2 = DEFAULT
RecurrentParameter: uint32 num_output 1 = 0; FillerParameter weight_filler 2;
    FillerParameter bias_filler 3; bool debug_info 4 = false; bool expose_hidden 5 = false
ReductionParameter: enum ReductionOp SUM=1 ASUM SUMSQ MEAN; ReductionOp operation 1 = SUM;
    int32 axis 2 = 0; float coeff 3 = 1
ReshapeParameter: BlobShape shape 1; int32 axis 2 = 0; int32 num_axes 3 = -1
SPPParameter: enum PoolMethod MAX AVE STOCHASTIC; enum Engine DEFAULT CAFFE CUDNN;
    uint32 pyramid_height 1; PoolMethod pool 2 = MAX; Engine engine 6 = DEFAULT
ScaleParameter: int32 axis 1 = 1; int32 num_axes 2 = 1; FillerParameter filler 3;
    bool bias_term 4 = false; FillerParameter bias_filler 5
SigmoidParameter: enum Engine DEFAULT CAFFE CUDNN; Engine engine 1 = DEFAULT
SliceParameter: uint32 slice_dim 1 = 1; uint32* slice_point 2; int32 axis 3 = 1
SoftmaxParameter: enum Engine DEFAULT CAFFE CUDNN; Engine engine 1 = DEFAULT; int32 axis 2 = 1
SwishParameter: float beta 1 = 1
TanHParameter: enum Engine DEFAULT CAFFE CUDNN; Engine engine 1 = DEFAULT
ThresholdParameter: float threshold 1 = 0
TileParameter: int32 axis 1 = 1; int32 tiles 2
TransformationParameter: float scale 1 = 1; bool mirror 2 = false; uint32 crop_size 3 = 0;
    string mean_file 4; float* mean_value 5; bool force_color 6 = false; bool force_gray 7 = false
WindowDataParameter: string source 1; float scale 2 = 1; string mean_file 3; uint32 batch_size 4;
    uint32 crop_size 5 = 0; bool mirror 6 = false; float fg_threshold 7 = 0.5;
    float bg_threshold 8 = 0.5; float fg_fraction 9 = 0.25; uint32 context_pad 10 = 0;
    string crop_mode 11 = warp; bool cache_images 12 = false; string root_folder 13 =

V1LayerParameter: enum LayerType NONE ACCURACY BNLL CONCAT CONVOLUTION DATA DROPOUT EUCLIDEAN_LOSS
        FLATTEN HDF5_DATA HDF5_OUTPUT IM2COL IMAGE_DATA INFOGAIN_LOSS INNER_PRODUCT LRN
        MULTINOMIAL_LOGISTIC_LOSS POOLING RELU SIGMOID SOFTMAX SOFTMAX_LOSS SPLIT TANH WINDOW_DATA
        ELTWISE POWER SIGMOID_CROSS_ENTROPY_LOSS HINGE_LOSS MEMORY_DATA ARGMAX THRESHOLD DUMMY_DATA
        SLICE MVN ABSVAL SILENCE CONTRASTIVE_LOSS EXP DECONVOLUTION;
    enum DimCheckMode STRICT PERMISSIVE; V0LayerParameter layer 1; string* bottom 2; string* top 3;
    string name 4; LayerType type 5; BlobProto* blobs 6; float* blobs_lr 7; float* weight_decay 8;
    ConcatParameter concat_param 9; ConvolutionParameter convolution_param 10;
    DataParameter data_param 11; DropoutParameter dropout_param 12;
    HDF5DataParameter hdf5_data_param 13; HDF5OutputParameter hdf5_output_param 14;
    ImageDataParameter image_data_param 15; InfogainLossParameter infogain_loss_param 16;
    InnerProductParameter inner_product_param 17; LRNParameter lrn_param 18;
    PoolingParameter pooling_param 19; WindowDataParameter window_data_param 20;
    PowerParameter power_param 21; MemoryDataParameter memory_data_param 22;
    ArgMaxParameter argmax_param 23; EltwiseParameter eltwise_param 24;
    ThresholdParameter threshold_param 25; DummyDataParameter dummy_data_param 26;
    AccuracyParameter accuracy_param 27; HingeLossParameter hinge_loss_param 29;
    ReLUParameter relu_param 30; SliceParameter slice_param 31; NetStateRule* include 32;
    NetStateRule* exclude 33; MVNParameter mvn_param 34; float* loss_weight 35;
    TransformationParameter transform_param 36; TanHParameter tanh_param 37;
    SigmoidParameter sigmoid_param 38; SoftmaxParameter softmax_param 39;
    ContrastiveLossParameter contrastive_loss_param 40; ExpParameter exp_param 41;
    LossParameter loss_param 42; string* param 1001; DimCheckMode* blob_share_mode 1002
V0LayerParameter: enum PoolMethod MAX AVE STOCHASTIC; string name 1; string type 2;
    uint32 num_output 3; bool biasterm 4 = true; FillerParameter weight_filler 5;
    FillerParameter bias_filler 6; uint32 pad 7 = 0; uint32 kernelsize 8; uint32 group 9 = 1;
    uint32 stride 10 = 1; PoolMethod pool 11 = MAX; float dropout_ratio 12 = 0.5;
    uint32 local_size 13 = 5; float alpha 14 = 1; float beta 15 = 0.75; string source 16;
    float scale 17 = 1; string meanfile 18; uint32 batchsize 19; uint32 cropsize 20 = 0;
    bool mirror 21 = false; float k 22 = 1; BlobProto* blobs 50; float* blobs_lr 51;
    float* weight_decay 52; uint32 rand_skip 53 = 0; float det_fg_threshold 54 = 0.5;
    float det_bg_threshold 55 = 0.5; float det_fg_fraction 56 = 0.25; uint32 det_context_pad 58 = 0;
    string det_crop_mode 59 = warp; int32 new_num 60 = 0; int32 new_channels 61 = 0;
    int32 new_height 62 = 0; int32 new_width 63 = 0; bool shuffle_images 64 = false;
    uint32 concat_dim 65 = 1; HDF5OutputParameter hdf5_output_param 1001
"""

_FieldProto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_FieldProto, f"TYPE_{name.upper()}")
    for name in ("int32", "int64", "uint32", "float", "double", "bool", "string", "bytes")
}
_LABELS = {
    "*": _FieldProto.LABEL_REPEATED,
    "!": _FieldProto.LABEL_REQUIRED,
    "": _FieldProto.LABEL_OPTIONAL,
}


def descriptor(name: str) -> Descriptor:
    """The fields of message `name` by name and number. KeyError if there is none."""
    return _pool().FindMessageTypeByName(f"{PACKAGE}.{name}")


@cache
def message_class(name: str) -> type[ProtoMessage]:
    """The protobuf class of message `name`, for reading and writing its binary form."""
    return message_factory.GetMessageClass(descriptor(name))


def field_number(message: str, field: str) -> int:
    """The number that stands for `field` of `message` in a binary file."""
    return int(descriptor(message).fields_by_name[field].number)


def inner(field: FieldDescriptor) -> Descriptor:
    """The type of the messages that a field holds."""
    if field.message_type is None:
        raise KeyError(f"{field.full_name} holds no message")
    return field.message_type


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether the field may be given any number of times."""
    return field.full_name in _labelled(_FieldProto.LABEL_REPEATED)


def is_required(field: FieldDescriptor) -> bool:
    """Whether a message is incomplete without the field."""
    return field.full_name in _labelled(_FieldProto.LABEL_REQUIRED)


def default_value(field: FieldDescriptor) -> bool | int | float | str | bytes | None:
    """What a singular scalar field is worth when absent; enum values as their names.

    Floats keep the digits of the table; protobuf's own default of a `float` is rounded to 32 bits.
    None for a message.
    """
    if field.message_type is not None:
        return None
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[field.default_value].name)
    if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT:
        return float(_float_defaults().get(field.full_name, "0"))
    value: bool | int | float | str | bytes = field.default_value
    return value


@cache
def _file() -> descriptor_pb2.FileDescriptorProto:
    """The table as protobuf's description of a file."""
    file = descriptor_pb2.FileDescriptorProto(
        name="graphc/caffe.proto", package=PACKAGE, syntax="proto2"
    )
    paragraphs: list[str] = []
    for line in _TABLE.strip().splitlines():
        if line.startswith(" "):
            paragraphs[-1] += " " + line.strip()
        elif line:
            paragraphs.append(line)
    for paragraph in paragraphs:
        name, body = paragraph.split(":", 1)
        message = None if name == "*" else file.message_type.add(name=name)
        for entry in body.split(";"):
            words = entry.split()
            if message is not None and words[0] != "enum":
                _add_field(message.field.add(), words)
            else:
                _add_enum((message or file).enum_type.add(name=words[1]), words[2:])
    _resolve_types(file)
    return file


def _add_enum(enum: descriptor_pb2.EnumDescriptorProto, values: list[str]) -> None:
    number = 0
    for value in values:
        name, given, start = value.partition("=")
        number = int(start) if given else number
        enum.value.add(name=name, number=number)
        number += 1


def _add_field(field: descriptor_pb2.FieldDescriptorProto, words: list[str]) -> None:
    mark = words[0][-1] if words[0][-1] in "*!" else ""
    field.type_name = words[0].removesuffix(mark)
    field.label = _LABELS[mark]
    field.name = words[1]
    field.number = int(words[2])
    if words[3:] == ["packed"]:
        field.options.packed = True
    elif words[3:4] == ["="]:
        field.default_value = " ".join(words[4:])


def _resolve_types(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Turn the type words into protobuf's types; a name may mean an enum of the same message."""
    messages = {message.name for message in file.message_type}
    for message in file.message_type:
        own = {enum.name for enum in message.enum_type}
        for field in message.field:
            word = field.type_name
            field.ClearField("type_name")
            if word in _SCALARS:
                field.type = _SCALARS[word]
            elif word in messages:
                field.type = _FieldProto.TYPE_MESSAGE
                field.type_name = f".{PACKAGE}.{word}"
            else:
                field.type = _FieldProto.TYPE_ENUM
                scope = f"{message.name}." if word in own else ""
                field.type_name = f".{PACKAGE}.{scope}{word}"


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """A pool of our own, so that another description of Caffe in the same program does no harm."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return pool


@cache
def _labelled(label: int) -> frozenset[str]:
    return frozenset(
        f"{PACKAGE}.{message.name}.{field.name}"
        for message in _file().message_type
        for field in message.field
        if field.label == label
    )


@cache
def _float_defaults() -> dict[str, str]:
    return {
        f"{PACKAGE}.{message.name}.{field.name}": field.default_value
        for message in _file().message_type
        for field in message.field
        if field.type == _FieldProto.TYPE_FLOAT and field.HasField("default_value")
    }
